package bundle

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/perigee-edge/perigee"
)

// Scrub reads every blob once, at about rate bytes a second (0 = as fast as it can), so that rot is found
// before somebody needs the blob. It returns the blobs that had changed, which are out of the store by then:
// fetch them again. It ends early with ctx.
func (s *Store) Scrub(ctx context.Context, rate int64) (rotten []perigee.Digest, err error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		switch err := s.scrub(ctx, d, rate); {
		case errors.Is(err, ErrCorrupt):
			rotten = append(rotten, d)
		case errors.Is(err, ErrNotFound): // deleted since it was listed
		case err != nil:
			return rotten, err
		}
	}
	return rotten, nil
}

// scrubPart is read at once.
const scrubPart = 256 << 10

func (s *Store) scrub(ctx context.Context, d perigee.Digest, rate int64) error {
	r, _, err := s.Open(d)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		n, err := io.CopyN(io.Discard, r, scrubPart)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		var pause time.Duration
		if rate > 0 {
			pause = time.Duration(n) * time.Second / time.Duration(rate)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
