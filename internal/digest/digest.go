// Package digest computes the BLAKE3 digests that name bundles, records and keys. It is a package
// of its own, since every package that names things needs it and the vocabulary imports only the
// standard library.
package digest

import (
	"hash"

	"lukechampine.com/blake3"

	"github.com/perigee-edge/perigee"
)

// Sum returns the digest of b.
func Sum(b []byte) perigee.Digest { return blake3.Sum256(b) }

// New returns a hash whose Sum is a digest of 32 bytes.
func New() hash.Hash { return blake3.New(32, nil) }

// Of returns the digest of what was written to h, which New made.
func Of(h hash.Hash) (d perigee.Digest) {
	h.Sum(d[:0])
	return d
}
