package node

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The median is followed within some dozens of requests, up and down, and a heavy tail does not move it.
func TestServiceFollowsTheMedian(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s service
	check := func(what string, n int, draw func() time.Duration, want time.Duration) {
		t.Helper()
		sum := 0.0
		for i := range n {
			s.add(draw())
			if i >= n/2 {
				sum += float64(s.us.Load())
			}
		}
		got := time.Duration(sum/float64(n-n/2)) * time.Microsecond
		if got < want*7/10 || got > want*13/10 {
			t.Errorf("%s: %v, want about %v", what, got, want)
		}
	}
	check("fixed", 1, func() time.Duration { return 5 * time.Millisecond }, 5*time.Millisecond)
	check("slower", 200, func() time.Duration { return 50 * time.Millisecond }, 50*time.Millisecond)
	check("exponential", 2000, func() time.Duration { return time.Duration(r.ExpFloat64() * float64(20*time.Millisecond)) }, 13860*time.Microsecond)
	check("one of twenty takes seconds", 2000, func() time.Duration {
		if r.IntN(20) == 0 {
			return 3 * time.Second
		}
		return 4*time.Millisecond + time.Duration(r.IntN(2000))*time.Microsecond
	}, 5100*time.Microsecond)
	check("nothing", 300, func() time.Duration { return 0 }, time.Microsecond)
}
