package guest

import "net/http"

// sniffed is how many bytes a type is guessed from.
const sniffed = 512

// contentType is http.DetectContentType, which is dear, with a short way for plain text.
func contentType(b []byte) string {
	if plain(b[:min(len(b), sniffed)]) {
		return "text/plain; charset=utf-8"
	}
	return http.DetectContentType(b)
}

// plain reports whether b is printable ASCII and does not begin like a format that can be (HTML, XML, PDF,
// PostScript, and those whose magic begins with letters; https://mimesniff.spec.whatwg.org).
func plain(b []byte) bool {
	for len(b) > 0 && textKind[b[0]] == space {
		b = b[1:]
	}
	if len(b) == 0 || textKind[b[0]] == magic {
		return false
	}
	for _, c := range b {
		if textKind[c] == binary {
			return false
		}
	}
	return true
}

// The kinds of bytes.
const (
	binary = iota
	space
	printed
	magic // printed, and some format begins with it
)

var textKind = func() (kinds [256]byte) {
	for c := ' '; c <= '~'; c++ {
		kinds[c] = printed
	}
	for _, c := range " \t\n\r" {
		kinds[c] = space
	}
	for _, c := range "<%BFGIMOPRtw" {
		kinds[c] = magic
	}
	return kinds
}()
