package edgeproxy

import (
	"net/http"
	"slices"
	"strings"
)

// coding is a content coding (RFC 9110, section 8.4.1) that this gateway can apply. Of those that a client
// likes alike, the highest is taken.
type coding int

const (
	codingIdentity coding = iota
	codingGzip
	codingBrotli
	codingZstd
	codings
)

// String returns the name in Content-Encoding.
func (c coding) String() string { return [...]string{"identity", "gzip", "br", "zstd"}[c] }

// accepted returns what the lines of Accept-Encoding ask for (RFC 9110, section 12.5.3): the coding of the
// highest weight. Without a field, and if none is allowed or identity is liked better, it is identity.
func accepted(lines []string) coding {
	weights := [codings]float64{-1, -1, -1, -1} // -1 = not named
	others := -1.0
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			switch q := quality(params); strings.ToLower(strings.TrimSpace(name)) {
			case "zstd":
				weights[codingZstd] = q
			case "br":
				weights[codingBrotli] = q
			case "gzip", "x-gzip":
				weights[codingGzip] = q
			case "identity":
				weights[codingIdentity] = q
			case "*":
				others = q
			}
		}
	}
	best, most := codingIdentity, max(0, weights[codingIdentity])
	for c := codingZstd; c > codingIdentity; c-- {
		w := weights[c]
		if w < 0 {
			w = others
		}
		if w > most || w == most && w > 0 && best == codingIdentity {
			best, most = c, w
		}
	}
	return best
}

// compressible reports whether bodies of a Content-Type become notably shorter: text in its many forms.
func compressible(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	switch main, sub, _ := strings.Cut(kind, "/"); main {
	case "text":
		return true
	case "application":
		switch sub {
		case "json", "javascript", "xml", "ecmascript", "x-javascript", "x-ndjson", "jsonl", "yaml", "x-yaml", "toml", "sql", "rtf",
			"graphql", "wasm", "vnd.ms-fontobject", "x-font-ttf", "x-protobuf", "protobuf":
			return true
		}
		return strings.HasSuffix(sub, "+json") || strings.HasSuffix(sub, "+xml") || strings.HasSuffix(sub, "+yaml")
	case "font":
		return sub == "ttf" || sub == "otf" || sub == "collection"
	case "image":
		return sub == "svg+xml" || sub == "bmp" || sub == "x-icon" || sub == "vnd.microsoft.icon"
	}
	return false
}

// mayTransform reports whether the head of a response lets its body be encoded (RFC 9110, section 7.7):
// nobody forbids it, it was not done before, it is whole, and no digest of it is in the head.
func mayTransform(h http.Header) bool {
	for _, name := range []string{"Content-Encoding", "Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		if len(h[name]) > 0 {
			return false
		}
	}
	return !hasElement(h["Cache-Control"], "no-transform")
}

// vary says that the response depends on Accept-Encoding. The values are not changed: they may be shared.
func vary(h http.Header) {
	if lines := h["Vary"]; !hasElement(lines, "*") && !hasElement(lines, "accept-encoding") {
		h["Vary"] = append(slices.Clip(lines), "Accept-Encoding")
	}
}

// hasElement reports whether a list has an element, whatever the case of its letters.
func hasElement(lines []string, element string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), element) {
				return true
			}
		}
	}
	return false
}

// weakETag makes an entity tag weak, since what it names has other bytes once it is encoded (RFC 9110,
// section 8.8.3.3).
func weakETag(h http.Header) {
	if tag := h["Etag"]; len(tag) == 1 && strings.HasPrefix(tag[0], `"`) {
		h["Etag"] = []string{"W/" + tag[0]}
	}
}
