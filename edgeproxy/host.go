package edgeproxy

import (
	"errors"
	"strings"

	"github.com/perigee-edge/perigee"
)

var errNoHost = errors.New("the request names no host")

// canonicalHost brings a Host header field or a server name into the form that routes have: lower
// case, without a port or a trailing dot. It does not check the labels; what is in no route is
// found by no lookup.
func canonicalHost(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.IndexByte(s[i:], ']') < 0 && allDigits(s[i+1:]) {
		s = s[:i]
	}
	s = strings.TrimSuffix(s, ".")
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			return lowerASCII(s)
		}
	}
	return s
}

func allDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// lowerASCII leaves other letters alone: no two different names may become one.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// checkHost reports why a canonical host that no function answers is not even a host name. IPv6
// addresses pass, since clients send them for good reason.
func checkHost(host string) error {
	if host == "" {
		return errNoHost
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		return nil
	}
	return perigee.CheckHost(host)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
