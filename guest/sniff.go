package guest

import (
	"net/http"
	"strings"
)

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
	begun := false
	for _, c := range b {
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		case c < ' ' || c > '~':
			return false
		case !begun:
			begun = true
			if strings.IndexByte("<%BFGIMOPRtw", c) >= 0 {
				return false
			}
		}
	}
	return begun
}
