// Package perigee is the vocabulary of an edge-distributed function gateway: what a node, a
// region, a function and a revision are, what a placement policy says, and the View, an immutable
// picture of what one node believes about all of them.
//
// The package does no I/O, starts no goroutine and holds no lock. Every other package of the
// project imports it, and it imports only the standard library. Values reachable from a View are
// shared between goroutines and must not be changed by anyone but the View's writer, which builds
// new ones instead.
package perigee

import (
	"fmt"
	"strings"
)

// Version is the release of this source tree. Builds of a release tag overwrite nothing: the tag
// and this constant are changed by the same commit.
const Version = "0.1.0"

// NodeID names a node. It is a DNS label, unique in the cluster, and never reused for another key.
type NodeID string

// Region is the operator's code for a place, for example "fra". It is a DNS label.
type Region string

// ClusterID identifies a cluster: 16 hexadecimal digits chosen at random by cluster init.
type ClusterID string

// KeyID is the short name of a public key: "k" and 16 hexadecimal digits of its BLAKE3 digest.
type KeyID string

// RevisionID names a revision of a function: the first 12 hexadecimal digits of the digest of the
// signed record that introduced it.
type RevisionID string

// MaxLabel is the longest DNS label, in bytes (RFC 1035, section 2.3.4).
const MaxLabel = 63

// CheckLabel reports, as an error that states the rule, why s is not a DNS label: 1 to 63 of
// a-z, 0-9 and '-', neither starting nor ending with '-' (RFC 1123, section 2.1, lower case only).
func CheckLabel(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the name is empty: use 1 to %d of a-z, 0-9 and '-'", MaxLabel)
	case len(s) > MaxLabel:
		return fmt.Errorf("%q has %d characters: use at most %d", s, len(s), MaxLabel)
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("%q starts or ends with '-': use a letter or a digit there", s)
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%q contains %q: use only a-z, 0-9 and '-'", s, c)
		}
	}
	return nil
}

// CheckHost reports why s is not a host name a route may claim: labels joined by dots, at most
// 253 bytes, lower case, without a port or a trailing dot.
func CheckHost(s string) error {
	if len(s) > 253 {
		return fmt.Errorf("host name %q has %d characters: use at most 253", s, len(s))
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := CheckLabel(label); err != nil {
			return fmt.Errorf("host name %q: %w", s, err)
		}
	}
	return nil
}

// CheckEnvName reports why s can't be the name of a variable of a guest's environment.
func CheckEnvName(s string) error {
	const maxEnvName = 128
	for i, r := range s {
		digit := '0' <= r && r <= '9'
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '_'
		if !letter && (!digit || i == 0) || i >= maxEnvName {
			return fmt.Errorf("%.80q is not a name: use letters, digits and '_', and no digit first", s)
		}
	}
	if s == "" {
		return fmt.Errorf("the name is empty: use letters, digits and '_', and no digit first")
	}
	return nil
}
