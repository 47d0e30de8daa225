package backup

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/record"
)

// Writer writes a backup. After an error it is of no use. It is not safe for concurrent use.
type Writer struct {
	w   io.Writer
	sum hash.Hash
}

// NewWriter begins a backup.
func NewWriter(w io.Writer, h *Head) (*Writer, error) {
	b := &Writer{w: w, sum: digest.New()}
	head, err := record.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("write backup: %w", err)
	}
	if err := b.write([]byte(magic)); err != nil {
		return nil, err
	}
	return b, b.entry(kindHead, head)
}

// Record adds a signed record. All of them come before the bundles.
func (b *Writer) Record(raw []byte) error { return b.entry(kindRecord, raw) }

// Bundle adds an archive of a size, which r must have. The reader of the backup compares the digest.
func (b *Writer) Bundle(d perigee.Digest, size int64, r io.Reader) error {
	if err := b.write(entryStart(kindBundle, digestSize+size)); err != nil {
		return err
	}
	if err := b.write(d[:]); err != nil {
		return err
	}
	if _, err := io.CopyN(io.MultiWriter(b.w, b.sum), r, size); err != nil {
		return fmt.Errorf("write backup: bundle %s: %w", d, err)
	}
	return nil
}

// Close ends the backup, signed with the key of the head's certificate. The underlying writer stays open.
func (b *Writer) Close(key ed25519.PrivateKey) error {
	return b.entry(kindEnd, ed25519.Sign(key, signed(b.sum)))
}

// signed returns what is signed of a file, given the sum of what comes before the signature.
func signed(sum hash.Hash) []byte {
	d := digest.Of(sum)
	return append([]byte(signContext), d[:]...)
}

func (b *Writer) entry(k kind, content []byte) error {
	return b.write(append(entryStart(k, int64(len(content))), content...))
}

func entryStart(k kind, length int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(k)}, uint64(length))
}

func (b *Writer) write(p []byte) error {
	b.sum.Write(p)
	if _, err := b.w.Write(p); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}
