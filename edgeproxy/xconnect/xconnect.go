// Package xconnect has net/http's server of HTTP/2 take extended CONNECT (RFC 8441), by which browsers open
// WebSockets there. net/http reads that from GODEBUG, and only when it is initialised itself (Go issue 71128).
// Packages whose imports are ready are initialised in the order of their paths (The Go Programming Language
// Specification, "Program initialization"), so this one, which needs only os, comes before net/http in any
// program that imports it.
package xconnect

import (
	"os"
	"strings"
)

const setting = "http2xconnect="

// Set says that GODEBUG has the setting, which an operator may have given otherwise.
var Set = set()

func set() bool {
	old := os.Getenv("GODEBUG")
	switch {
	case strings.Contains(old, setting):
		return strings.Contains(old, setting+"1")
	case old != "":
		old += ","
	}
	return os.Setenv("GODEBUG", old+setting+"1") == nil
}
