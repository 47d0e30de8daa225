package digest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"lukechampine.com/blake3/bao"

	"github.com/perigee-edge/perigee"
)

// Content can be checked slice by slice against the digest of all of it: BLAKE3 is a tree, and a slice
// travels with the nodes on its way to the root (the Bao slice format, with one chunk group a slice).

const (
	group = 7 // log2 of the chunks of 1 KiB in a slice

	// SliceSize is the size of all slices but the last, in bytes.
	SliceSize = 1 << (10 + group)

	// MaxSealed is the most that a sealed slice has: the slice, the size of the content, and two nodes for
	// each level of the tallest tree there can be.
	MaxSealed = SliceSize + 8 + 64*(64-10-group)
)

// ErrSlice is returned for a sealed slice that does not belong to the content.
var ErrSlice = errors.New("it is not a slice of this content")

// Slices returns how many slices content of a size has.
func Slices(size int64) int { return int((size + SliceSize - 1) / SliceSize) }

// Span returns where slice i of content of a size begins, and its length.
func Span(size int64, i int) (at, length int64) {
	at = int64(i) * SliceSize
	return at, min(SliceSize, size-at)
}

// Tree reads content of a size and returns its digest and the inner nodes of its tree, 64 bytes a slice.
// It does not notice content that goes on.
func Tree(r io.Reader, size int64) ([]byte, perigee.Digest, error) {
	nodes := make(fixed, bao.EncodedSize(int(size), group, true))
	d, err := bao.Encode(nodes, r, size, group, true)
	return nodes, d, err
}

// fixed is a buffer of a known size.
type fixed []byte

// WriteAt implements io.WriterAt.
func (b fixed) WriteAt(p []byte, at int64) (int, error) { return copy(b[at:], p), nil }

// Seal returns slice i with what proves that it belongs to the content whose tree this is.
func Seal(slice []byte, tree []byte, i int) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(MaxSealed)
	err := bao.ExtractSlice(&out, bytes.NewReader(slice), bytes.NewReader(tree), group, uint64(i)*SliceSize, uint64(len(slice)))
	return out.Bytes(), err
}

// Unseal verifies that sealed is slice i of the content with digest d and this size, and returns the slice.
// The error is ErrSlice otherwise.
func Unseal(sealed []byte, d perigee.Digest, size int64, i int) ([]byte, error) {
	if i < 0 || i >= Slices(size) {
		return nil, fmt.Errorf("slice %d of %d: %w", i, Slices(size), ErrSlice)
	}
	if len(sealed) < 8 || binary.LittleEndian.Uint64(sealed) != uint64(size) {
		return nil, fmt.Errorf("slice %d: %w", i, ErrSlice)
	}
	at, length := Span(size, i)
	slice, _ := bao.VerifySlice(sealed, group, uint64(at), uint64(length), d)
	if int64(len(slice)) != length { // what it says beside the slice is true of one whose last bytes were zeros and were cut off
		return nil, fmt.Errorf("slice %d: %w", i, ErrSlice)
	}
	return slice, nil
}
