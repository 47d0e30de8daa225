// Package identity says who is who in a cluster: its certificate authorities, the certificates of
// nodes with their signed claims, the keys of nodes and people, the tokens that let new ones in,
// and the TLS configurations that check all of it. It does not decide who may do what (package
// gossip folds that from signed records), keeps no list of revoked nodes (callers pass a function
// that knows), dials nothing and starts no goroutine. The only files it touches are secrets, in
// SaveSecret, LoadSecret and the two functions for keys built on them.
//
// # Certificates
//
// The mesh has a root (Ed25519, 10 years, path length 1), intermediates (Ed25519, 5 years, path
// length 0) held by signer nodes, and node leafs (Ed25519, 30 days). A leaf is valid from 10
// minutes before it was issued, since clocks differ, and never outside the life of its issuer.
// Which cluster a CA belongs to is in its common name: "Perigee <cluster> mesh CA", "Perigee
// <cluster> mesh intermediate CA" and, for hosts without a public name, "Perigee <cluster> web CA"
// (ECDSA P-256, since browsers accept no Ed25519, as are its leafs of 7 days).
//
// The identity of a node is the one subject alternative name of its leaf, a URI:
//
//	perigee://<cluster>/node/<id>?label=<k>%3D<v>&region=<region>&role=<role>&zone=<zone>
//
// The query is sorted by key and then by value and escaped as url.Values.Encode does; region is
// required, the rest is there when it says something. The bytes of the extension must be exactly the encoding of
// the claims read from it, so one set of claims has one form. A chain is a list of DER
// certificates, leaf first, each signed by the next, without the root unless a function says so.
//
// # Tokens
//
// A token is one line: "pgt1_" and unpadded base64url (RFC 4648, section 5) of
//
//	version 1 | kind 1 | genesis digest 32 | seed 32 | length 1, signer | count 1, { length 1, address } | CRC-32 4
//
// with the CRC (IEEE, big endian) over everything before it. The kind is 1 for a node, 2 for a
// deploy key, 3 for an operator key. The seed is an Ed25519 seed; only its public key is known to
// the cluster. The checksum tells a mangled paste from a wrong token; it protects against nothing else.
//
// # Proof of a token or key
//
// The bearer signs, with the token's key (or a node with its own, to renew), the bytes
// "perigee join v1\x00", 32 bytes of TLS exporter with the label ExporterLabel and no context, and
// the BLAKE3 digest of the body it sends. The exporter binds the signature to this connection, so
// a false server that collects it has nothing to use elsewhere.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
)

// How long certificates live. A node renews at half of NodeLifetime, and may renew later still.
const (
	RootLifetime         = 3653 * day // ten years
	IntermediateLifetime = 1826 * day // five years
	NodeLifetime         = 30 * day
	WebLifetime          = 7 * day

	day = 24 * time.Hour

	leafBackdate = 10 * time.Minute // clocks that run behind the issuer's still accept a new leaf
	caBackdate   = time.Hour        // and a CA is valid before the first leaf it issues
)

// NewKey makes an Ed25519 key for a node or a person.
func NewKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// NewClusterID chooses the name of a new cluster: 16 hexadecimal digits at random.
func NewClusterID() perigee.ClusterID {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return perigee.ClusterID(hex.EncodeToString(b[:]))
}

// checkCluster reports why c is not the name of a cluster.
func checkCluster(c perigee.ClusterID) error {
	b, err := hex.DecodeString(string(c))
	if err != nil || len(b) != 8 || hex.EncodeToString(b) != string(c) {
		return fmt.Errorf("cluster name %.40q: want 16 hexadecimal digits in lower case", c)
	}
	return nil
}
