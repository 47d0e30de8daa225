package backup

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/record"
)

// ErrDamaged is returned for a file that is no whole backup: something else, cut, or changed.
var ErrDamaged = errors.New("the file is no whole backup")

// Handler takes what a backup has, as it is read. None of it is certain before Read has returned nil.
type Handler struct {
	// Head comes first and returns the key of the certificate in it, which must have signed the file.
	Head func(*Head) (ed25519.PublicKey, error)
	// Record gets the signed records.
	Record func(raw []byte) error
	// Bundle gets the archives. What it leaves unread is read behind it; nil = nobody wants them.
	Bundle func(d perigee.Digest, size int64, r io.Reader) error
}

// Read reads a backup to its end and verifies it: its form, its signature, and the digest of each bundle. It
// needs the memory of one record. What is wrong with the file is an ErrDamaged; errors of the handler come
// as they are.
func Read(r io.Reader, h Handler) error {
	b := &reader{r: r, sum: digest.New()}
	err := b.all(h)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends after %d bytes, in the middle", ErrDamaged, b.at)
	}
	return err
}

type reader struct {
	r       io.Reader
	sum     hash.Hash
	at      int64 // bytes read
	records int64 // of them in records
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

func (b *reader) all(h Handler) error {
	key, err := b.head(h)
	if err != nil {
		return err
	}
	for last := kindRecord; ; {
		sum := signed(b.sum) // of what comes before the next entry
		k, length, err := b.next()
		switch {
		case err != nil:
			return err
		case k == kindEnd && length == ed25519.SignatureSize:
			return b.end(key, sum)
		case k == kindRecord && last == kindRecord:
			err = b.record(length, h)
		case k == kindBundle:
			last, err = k, b.bundle(length, h)
		default:
			return damaged("before byte %d, an entry of kind %d and %d bytes has no place", b.at, k, length)
		}
		if err != nil {
			return err
		}
	}
}

func (b *reader) head(h Handler) (ed25519.PublicKey, error) {
	start, err := b.take(uint64(len(magic)))
	if err != nil {
		return nil, err
	}
	if string(start) != magic {
		return nil, damaged("it does not begin as a backup that this release can read")
	}
	k, length, err := b.next()
	if err != nil {
		return nil, err
	}
	if k != kindHead || length > maxHead {
		return nil, damaged("its head is missing or too large")
	}
	raw, err := b.take(length)
	if err != nil {
		return nil, err
	}
	head := new(Head)
	if err := record.Unmarshal(raw, head); err != nil {
		return nil, damaged("its head can't be read: %v", err)
	}
	return h.Head(head)
}

func (b *reader) record(length uint64, h Handler) error {
	if length > record.MaxSize {
		return damaged("a record of %d bytes, the limit is %d", length, record.MaxSize)
	}
	if b.records += int64(length); b.records > MaxRecords {
		return damaged("more than %d bytes of records", MaxRecords)
	}
	raw, err := b.take(length)
	if err != nil {
		return err
	}
	return h.Record(raw)
}

func (b *reader) bundle(length uint64, h Handler) error {
	if length < digestSize || length > digestSize+MaxBundle {
		return damaged("a bundle of %d bytes, the limit is %d", length, MaxBundle)
	}
	raw, err := b.take(digestSize)
	if err != nil {
		return err
	}
	d, size, own := perigee.Digest(raw), int64(length)-digestSize, digest.New()
	left := &io.LimitedReader{R: b, N: size}
	archive := io.TeeReader(left, own)
	if h.Bundle != nil {
		if err := h.Bundle(d, size, archive); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return err
	}
	if left.N > 0 {
		return io.ErrUnexpectedEOF
	}
	if got := digest.Of(own); got != d {
		return damaged("the bundle that ends at byte %d is %s and not %s", b.at, got, d)
	}
	return nil
}

// end verifies the signature, and that nothing follows it.
func (b *reader) end(key ed25519.PublicKey, sum []byte) error {
	sig, err := b.take(ed25519.SignatureSize)
	if err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, sum, sig) {
		return damaged("it was changed since the node signed it")
	}
	if n, err := io.ReadFull(b.r, make([]byte, 1)); n > 0 || err != io.EOF {
		return damaged("something follows its end")
	}
	return nil
}

// next reads the start of an entry.
func (b *reader) next() (k kind, length uint64, err error) {
	start, err := b.take(entryHead)
	if err != nil {
		return 0, 0, err
	}
	return kind(start[0]), binary.BigEndian.Uint64(start[1:]), nil
}

// take reads n bytes, which the caller has held against a limit.
func (b *reader) take(n uint64) ([]byte, error) {
	p := make([]byte, n)
	_, err := io.ReadFull(b, p)
	return p, err
}

// Read reads on, and sums up what it read.
func (b *reader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.sum.Write(p[:n])
	b.at += int64(n)
	return n, err
}
