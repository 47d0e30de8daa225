package edgeproxy

import (
	"net/http"
	"net/netip"
	"strings"
)

// forwarded returns who sent a request that came from a trusted proxy, and by which scheme, as the
// proxy says. It goes through X-Forwarded-For from the right, where the nearest proxy has written, and
// takes the first address that is not a trusted proxy itself: what stands left of it anybody may have
// written. Forwarded (RFC 7239) is not read, since a proxy that sets one of the two passes on the
// other as its client wrote it.
func forwarded(h http.Header, peer netip.Addr, trusted []netip.Prefix) (client netip.Addr, proto string) {
	client = peer
	lines := h[headerFor]
	for i := len(lines) - 1; i >= 0; i-- {
		for line, more := lines[i], true; more; {
			var last string
			if at := strings.LastIndexByte(line, ','); at >= 0 {
				line, last = line[:at], line[at+1:]
			} else {
				last, more = line, false
			}
			a, ok := parseForwarded(strings.TrimSpace(last))
			if !ok {
				return client, lastProto(h)
			}
			if client = a; !within(trusted, a) {
				return client, lastProto(h)
			}
		}
	}
	return client, lastProto(h)
}

// mayHide reports whether what comes after a request of HTTP/1 may be of its body, and not the next request, for the proxy that sent it: one
// that went by a Content-Length where we went by the chunks, which net/http does not tell. Then the connection ends with the response (RFC
// 9112, section 6.1), so that no client has its requests answered as another's.
func (p *Proxy) mayHide(r *http.Request, s *session) bool {
	return len(r.TransferEncoding) > 0 && within(p.cfg.Trusted, s.remote(r).ip)
}

// parseForwarded reads an address as proxies write it, with or without a port.
func parseForwarded(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().Unmap().WithZone(""), err == nil
}

// lastProto returns the scheme that the nearest proxy names; "" = none.
func lastProto(h http.Header) string {
	lines := h[headerProto]
	if len(lines) == 0 {
		return ""
	}
	last := lines[len(lines)-1]
	switch last = strings.ToLower(strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])); last {
	case "http", "https":
		return last
	}
	return ""
}
