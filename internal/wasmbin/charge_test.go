package wasmbin

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestChargesEqualCosts walks through functions at random: whatever way is taken, what is paid must be what
// the instructions cost, unless it ends in a trap.
func TestChargesEqualCosts(t *testing.T) {
	files := []string{"../../bench/testdata/fuel-c.wasm"}
	if dir := os.Getenv("PERIGEE_CONFORMANCE"); dir != "" {
		more, _ := filepath.Glob(filepath.Join(dir, "wasip1", "*", "*.wasm"))
		files = append(files, more[:min(len(more), 12)]...)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		w := newRewriter(b)
		sectionEnd, walks, paid := 0, 0, 0
		n := w.enter(secCode)
		for sectionEnd = w.end; n > 0; n-- {
			size := int(w.u32())
			next := w.pos + size
			w.end = next
			f := metered{rewriter: w}
			f.read()
			for range 30 {
				cost, charge, trapped := walk(w.points, w.b, rng)
				walks++
				if trapped || charge > 0 {
					paid++
				}
				if !trapped && cost != charge {
					t.Fatalf("%s: a path through the function at offset %d costs %d and pays %d", name, next-size, cost, charge)
				}
			}
			w.pos, w.end = next, sectionEnd
		}
		if walks == 0 || paid < walks/2 {
			t.Errorf("%s: %d walks, %d of them pay", name, walks, paid)
		}
	}
}

// walk takes a random way through a function, or the first 2,000 segments of it if that ends where nothing is
// paid in advance: before a turn of a loop.
func walk(points []point, b []byte, rng *rand.Rand) (cost, charge int64, trapped bool) {
	// Where do branches lead?
	begin, end, other := map[int]int{}, map[int]int{}, map[int]int{} // of the block that is open at a point, by its first point
	outer := make([]int, len(points))                                // the innermost block that is open at a point
	open := []int{}
	for i, p := range points {
		if len(open) > 0 {
			outer[i] = open[len(open)-1]
		} else {
			outer[i] = -1
		}
		switch p.op {
		case opBlock, opLoop, opIf:
			open = append(open, i)
			begin[i] = outer[i]
		case opElse:
			other[open[len(open)-1]] = i
		case opEnd:
			if len(open) > 0 {
				end[open[len(open)-1]] = i
				open = open[:len(open)-1]
			}
		}
	}
	branch := func(i int, label uint32) int { // the segment that a branch at point i leads to
		at := outer[i]
		for ; label > 0 && at >= 0; label-- {
			at = begin[at]
		}
		switch {
		case at < 0:
			return len(points)
		case points[at].op == opLoop:
			return at + 1
		}
		return end[at] + 1
	}
	steps := 0
	for i := 0; i < len(points); {
		p := points[i]
		cost, charge = cost+p.cost, charge+p.charge
		steps++
		next := i + 1
		switch p.op {
		case opLoop:
			if steps > 2_000 {
				return cost, charge, false
			}
		case opUnreachable:
			return cost, charge, true
		case opReturn:
			next = len(points)
		case opBr:
			next = branch(i, p.index)
		case opBrIf:
			if rng.IntN(2) == 0 {
				next = branch(i, p.index)
			}
		case opBrTable:
			labels := reader{b: b, pos: p.at + 1, end: p.next}
			n := labels.u32() + 1
			for k := rng.IntN(int(n)); k > 0; k-- {
				labels.u32()
			}
			next = branch(i, labels.u32())
		case opIf:
			if rng.IntN(2) == 0 {
				if next = end[i] + 1; other[i] > 0 {
					next = other[i] + 1
				}
			}
		case opElse:
			next = end[outer[i]] + 1
		}
		if steps > 2_000 && next <= i {
			return cost, charge, false
		}
		i = next
	}
	return cost, charge, false
}
