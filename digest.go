package perigee

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is a BLAKE3 digest of 32 bytes. Package internal/digest computes it.
type Digest [32]byte

const digestPrefix = "b3:"

// String returns the digest as "b3:" and 64 hexadecimal digits.
func (d Digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

// Short returns the first 12 hexadecimal digits, for people and for names.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero reports whether d is the zero value, which no content has in practice.
func (d Digest) IsZero() bool { return d == Digest{} }

// ParseDigest reads what String wrote.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	body, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(body) != hex.EncodedLen(len(d)) {
		return d, fmt.Errorf("parse digest %.80q: want %q and 64 hexadecimal digits", s, digestPrefix)
	}
	if _, err := hex.Decode(d[:], []byte(body)); err != nil {
		return Digest{}, fmt.Errorf("parse digest %.80q: %w", s, err)
	}
	return d, nil
}

// MarshalText writes the form of String, so that JSON shows it.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form of String.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}
