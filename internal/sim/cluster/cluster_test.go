package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// firstSeed is SEED, or random.
var firstSeed = func() uint64 {
	if seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		return seed
	}
	return rand.Uint64() >> 32
}()

// trials runs a few trials, once for all tests; make bench-cluster runs a thousand.
var trials = sync.OnceValues(func() (verdicts map[uint64]Verdict, err error) {
	verdicts = map[uint64]Verdict{}
	for seed := firstSeed; seed < firstSeed+15; seed++ {
		if verdicts[seed], err = Trial(seed); err != nil {
			return nil, fmt.Errorf("SEED=%d: %w", seed, err)
		}
	}
	return verdicts, nil
})

// each checks one invariant in all trials.
func each(t *testing.T, invariant string, broken func(Verdict) []string) {
	t.Helper()
	t.Logf("SEED=%d", firstSeed)
	verdicts, err := trials()
	if err != nil {
		t.Fatal(err)
	}
	acked := 0
	for seed, v := range verdicts {
		if bad := broken(v); len(bad) > 0 {
			t.Errorf("SEED=%d: %s: %v", seed, invariant, bad)
		}
		acked += v.Acked
	}
	if acked < 20 {
		t.Errorf("only %d deploys were acknowledged in %d trials", acked, len(verdicts))
	}
}

func TestReplicasEqual(t *testing.T) {
	each(t, "all hold the same records in the end", func(v Verdict) []string { return v.Unequal })
}

func TestAcknowledgedPresent(t *testing.T) {
	each(t, "what was acknowledged is everywhere in the end", func(v Verdict) []string { return v.Lost })
}

func TestReplacedStaysSo(t *testing.T) {
	each(t, "what was replaced, by a deploy or a removal, never counts again", func(v Verdict) []string { return v.Risen })
}

func TestCollection(t *testing.T) {
	gone := 0
	each(t, "pointers are collected", func(v Verdict) []string { gone += v.Gone; return nil })
	if gone < 100 {
		t.Errorf("only %d pointers were collected", gone)
	}
}

func TestOneWinner(t *testing.T) {
	each(t, "the same revision wins everywhere", func(v Verdict) []string { return v.Winners })
}

func TestReplay(t *testing.T) {
	seed := firstSeed
	t.Logf("SEED=%d", seed)
	one, err := Trial(seed)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Trial(seed)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Trial(seed + 1)
	if err != nil {
		t.Fatal(err)
	}
	if one.Trace != again.Trace {
		t.Error("the same seed gave another run")
	}
	if one.Trace == other.Trace {
		t.Error("another seed gave the same run")
	}
}

func TestConverge(t *testing.T) {
	t.Logf("SEED=%d", firstSeed)
	s, err := Converge(Config{Seed: firstSeed, Nodes: 200, Loss: 0.05}, 0.1, 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("p50 %s, p99 %s, max %s", s.Percentile(0.5), s.Percentile(0.99), s.Percentile(1))
	if s.Missed > 0 || s.Percentile(0.99) > 1500*time.Millisecond {
		t.Errorf("missed %d, p99 %s", s.Missed, s.Percentile(0.99))
	}
}

func TestByzantine(t *testing.T) {
	tried, accepted, err := Byzantine(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range accepted {
		t.Errorf("accepted: %s", name)
	}
	names := map[string]bool{}
	for _, name := range tried {
		names[name] = true
	}
	if len(names) != len(tried) || len(tried) < 80 {
		t.Errorf("%d attacks, %d names", len(tried), len(names))
	}
	t.Logf("%d attacks", len(tried))
}
