package edgeproxy

import (
	"net/http"
	"net/textproto"
	"strings"
)

// internalPrefix starts the header fields that only nodes set.
const internalPrefix = "Perigee-"

// The request header fields that a client may use for steering.
const (
	headerPrefer = "Perigee-Prefer-Region"
	headerForce  = "Perigee-Force-Region"
)

// The request header fields that a guest sees besides the client's own.
const (
	headerRegion        = "Perigee-Region"         // where it runs
	headerClientCountry = "Perigee-Client-Country" // ISO 3166-1 alpha-2; absent where it is not known
	headerClientRegion  = "Perigee-Client-Region"  // that the client counts as; absent where it is not known
	headerFor           = "X-Forwarded-For"
	headerProto         = "X-Forwarded-Proto"
	headerHost          = "X-Forwarded-Host"
)

// The fields of those that who runs the guest needs, too.
const (
	HeaderEntryRegion = "Perigee-Entry-Region" // where the client's request came in
	HeaderRequestID   = "Perigee-Request-Id"
)

// hopByHop reports whether a field is about one connection (RFC 9110, section 7.6.1, and what
// practice adds).
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// dropFromClient reports whether a field of a client's request goes no further: those about the
// connection, those that only we may set, those that say who the client is, those whose names guests
// could mistake for another's ("X_Y" for "X-Y" in CGI variables), and "Proxy", which CGI programs
// take for their proxy setting.
func dropFromClient(name string) bool {
	switch name[0] {
	case 'P':
		if name == "Proxy" || strings.HasPrefix(name, internalPrefix) {
			return true
		}
	case 'X':
		if strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
		switch name {
		case "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip":
			return true
		}
	case 'F', 'T', 'E':
		switch name {
		case "Forwarded", "True-Client-Ip", "Expect", "Trailer":
			return true
		}
	}
	return hopByHop(name) || strings.IndexByte(name, '_') >= 0 || strings.IndexByte(name, '.') >= 0
}

// maxFields is how many header fields a client may send. The mesh has a limit of its own, and what a
// client does must not look like a failure of the mesh.
const maxFields = 128

func tooManyFields(h http.Header) bool {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	return n > maxFields
}

// fromClient returns the fields of a client's request that go on. The values are shared.
func fromClient(h http.Header) http.Header {
	out := make(http.Header, len(h)+6) // dress adds as many, mostly
	for name, values := range h {
		if name != "" && !dropFromClient(name) {
			out[name] = values
		}
	}
	dropNamed(out, h["Connection"])
	return out
}

// dropNamed deletes the fields that a Connection field names.
func dropNamed(h http.Header, connection []string) {
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); name != "" {
				delete(h, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
}

// cleanResponse deletes the fields of a guest's or a peer's response that are not theirs to set.
func cleanResponse(h http.Header) {
	if connection, ok := h["Connection"]; ok {
		dropNamed(h, connection)
	}
	for name := range h {
		if hopByHop(name) || strings.HasPrefix(name, internalPrefix) {
			delete(h, name)
		}
	}
}

// allowedTrailers returns the names in a Trailer field that may be sent.
func allowedTrailers(lines []string) []string {
	var names []string
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); trailerAllowed(name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func setOrDelete(h http.Header, name string, values []string) {
	if len(values) == 0 {
		delete(h, name)
		return
	}
	h[name] = values
}

// cleanTrailerKeys deletes the trailer fields of a response that were set after its head and must
// not be sent.
func cleanTrailerKeys(h http.Header) {
	for name := range h {
		if t, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && !trailerAllowed(t) {
			delete(h, name)
		}
	}
}

// cleanTrailer deletes the trailer fields of a request that a guest could take for header fields of
// ours, and those that must not be trailers.
func cleanTrailer(h http.Header) {
	for name := range h {
		if !trailerAllowed(name) {
			delete(h, name)
		}
	}
}

// trailerAllowed reports whether a field may be in a trailer (RFC 9110, section 6.5.1): none that
// frames, routes or authenticates, and none that is dropped from a header.
func trailerAllowed(name string) bool {
	switch name {
	case "", "Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Host", "Authorization", "Cookie", "Set-Cookie":
		return false
	}
	return !dropFromClient(textproto.CanonicalMIMEHeaderKey(name))
}
