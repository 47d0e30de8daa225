package bundle

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// TestScrub rots one blob of three: it is found and out of the store, the others stay.
func TestScrub(t *testing.T) {
	disk := simdisk.New()
	s, err := OpenStore(disk, "/node/bundles")
	must(t, err)
	put(t, s, small(1))
	bad := put(t, s, small(2))
	put(t, s, small(3))
	if rotten, err := s.Scrub(t.Context(), 0); err != nil || rotten != nil {
		t.Errorf("nothing rotted: %v, %v", rotten, err)
	}
	disk.Flip(s.blob(bad), 4000)
	if rotten, err := s.Scrub(t.Context(), 0); err != nil || !slices.Equal(rotten, []perigee.Digest{bad}) || s.Has(bad) {
		t.Errorf("scrub found %v, %v, want %s", rotten, err, bad)
	}
	if list, err := s.List(); err != nil || len(list) != 2 {
		t.Errorf("%d blobs left, %v", len(list), err)
	}
}

// TestScrubRate reads a blob of 4 MiB at 1 MiB a second, and ends when it is told to.
func TestScrubRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenStore(simdisk.New(), "/node/bundles")
		must(t, err)
		put(t, s, small(4<<20))
		began := time.Now()
		if _, err := s.Scrub(t.Context(), 1<<20); err != nil || time.Since(began) < 4*time.Second || time.Since(began) > 5*time.Second {
			t.Errorf("scrubbed in %v, %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Scrub(ctx, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("scrub ended with %v", err)
		}
	})
}
