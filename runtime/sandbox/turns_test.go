package sandbox

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns checks that turns come in order, that who gives up waiting takes none along, and that none is
// lost.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{free: 1}
		if !turns.take(t.Context(), 0) {
			t.Fatal("the first turn is free")
		}
		var order []int
		for n := range 4 {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if n == 1 {
				time.AfterFunc(time.Millisecond, cancel)
			}
			go func() {
				if turns.take(ctx, 0) {
					order = append(order, n)
					time.Sleep(time.Millisecond)
					turns.give()
				} else if n != 1 {
					t.Errorf("%d got none", n)
				}
			}()
			synctest.Wait()
		}
		time.Sleep(2 * time.Millisecond)
		if !turns.pass(t.Context(), 0) {
			t.Error("it did not come back")
		}
		turns.give()
		if len(order) != 3 || order[0] != 0 || order[1] != 2 || order[2] != 3 {
			t.Errorf("order %v", order)
		}
		if turns.free != 1 || len(turns.waiting) != 0 {
			t.Errorf("%d free, %d wait", turns.free, len(turns.waiting))
		}
	})
}

// TestTurnsOfTheShort checks that guests that had few turns come first, and that the others come too.
func TestTurnsOfTheShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{}
		var order []int
		for _, had := range []int{9, 8, 0, 3, 3, 1, 7} {
			go func() {
				if turns.take(t.Context(), had) {
					order = append(order, had)
				}
			}()
			synctest.Wait()
		}
		for range 7 {
			turns.give()
			synctest.Wait()
		}
		if want := []int{0, 1, 3, 9, 3, 7, 8}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}
