package bundle

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"syscall"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// copyVerified copies exactly size bytes that have digest d.
func copyVerified(ctx context.Context, w io.Writer, d perigee.Digest, size int64, r io.Reader) error {
	h := digest.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(contextReader{ctx, r}, size+1))
	switch {
	case err != nil:
		return err
	case n > size:
		return fmt.Errorf("the source has more than the %d bytes announced", size)
	case n < size:
		return fmt.Errorf("the source ended after %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	case digest.Of(h) != d:
		return fmt.Errorf("the source has %s instead", digest.Of(h))
	}
	return nil
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// blobReader verifies a blob while it is read. The last bytes come out only once the digest of all
// was found right.
type blobReader struct {
	r       io.Reader
	h       hash.Hash
	left    int64 // bytes to come; the reader may have more or fewer if the blob changed
	want    perigee.Digest
	corrupt func() error // takes the blob out of the store; returns the error to report
	err     error        // for ever, once set
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	b.h.Write(p[:n])
	b.left -= int64(n)
	ended := b.left <= 0 || errors.Is(err, io.EOF)
	if isRot(err) || ended && digest.Of(b.h) != b.want {
		b.err = b.corrupt()
		return 0, b.err
	}
	b.err = err
	return n, err
}

// isRot reports whether an error means that the disk lost the data, as against a passing trouble.
func isRot(err error) bool { return errors.Is(err, syscall.EIO) }
