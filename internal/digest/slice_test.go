package digest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/mutant"
)

func content(rng *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestSlices: every slice can be proved by itself, and nothing else passes for it.
func TestSlices(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 1024, SliceSize - 1, SliceSize, SliceSize + 1, 2 * SliceSize, 5*SliceSize + 77} {
		b := content(rng, size)
		tree, d, err := Tree(bytes.NewReader(b), int64(size))
		if err != nil || d != Sum(b) {
			t.Fatalf("size %d: the tree says %s, want %s: %v", size, d, Sum(b), err)
		}
		sealed := make([][]byte, Slices(int64(size)))
		for i := range sealed {
			at, n := Span(int64(size), i)
			if sealed[i], err = Seal(b[at:at+n], tree, i); err != nil || len(sealed[i]) > MaxSealed {
				t.Fatalf("size %d, seal %d: %d bytes, %v", size, i, len(sealed[i]), err)
			}
		}
		for i, s := range sealed {
			at, n := Span(int64(size), i)
			if got, err := Unseal(s, d, int64(size), i); err != nil || !bytes.Equal(got, b[at:at+n]) {
				t.Errorf("size %d, slice %d: %v", size, i, err)
			}
			for what, f := range map[string]func() ([]byte, error){
				"another place":   func() ([]byte, error) { return Unseal(s, d, int64(size), i+1) },
				"a place before":  func() ([]byte, error) { return Unseal(s, d, int64(size), i-1) },
				"another size":    func() ([]byte, error) { return Unseal(s, d, int64(size)+1, i) },
				"another content": func() ([]byte, error) { return Unseal(s, perigee.Digest{1}, int64(size), i) },
				"cut short":       func() ([]byte, error) { return Unseal(s[:len(s)-1], d, int64(size), i) },
				"more after it":   func() ([]byte, error) { return Unseal(append(bytes.Clone(s), 0), d, int64(size), i) },
				"nothing":         func() ([]byte, error) { return Unseal(nil, d, int64(size), i) },
			} {
				if _, err := f(); !errors.Is(err, ErrSlice) {
					t.Errorf("size %d, slice %d as %s: %v", size, i, what, err)
				}
			}
			for range 20 {
				bad := bytes.Clone(s)
				bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
				if _, err := Unseal(bad, d, int64(size), i); !errors.Is(err, ErrSlice) {
					t.Errorf("size %d, slice %d with a bit flipped: %v", size, i, err)
				}
			}
		}
	}
}

// TestCutZeros: a slice that ends with zero bytes is not taken without them.
func TestCutZeros(t *testing.T) {
	b := make([]byte, 3072)
	b[0] = 1
	tree, d, err := Tree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Seal(b, tree, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unseal(sealed[:len(sealed)-100], d, int64(len(b)), 0); !errors.Is(err, ErrSlice) {
		t.Errorf("cut: %v", err)
	}
}

// FuzzUnseal: whatever a peer sends, only the slice itself passes.
func FuzzUnseal(f *testing.F) {
	const size = 2*SliceSize + 99
	b := content(rand.New(rand.NewPCG(3, 4)), size)
	tree, d, err := Tree(bytes.NewReader(b), size)
	if err != nil {
		f.Fatal(err)
	}
	for i := range Slices(size) {
		at, n := Span(size, i)
		s, err := Seal(b[at:at+n], tree, i)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s, i)
	}
	f.Add([]byte{}, -1)
	f.Fuzz(func(t *testing.T, sealed []byte, i int) {
		got, err := Unseal(sealed, d, size, i)
		if err != nil {
			return
		}
		if at, n := Span(size, i); !bytes.Equal(got, b[at:at+n]) {
			t.Errorf("slice %d has other bytes", i)
		}
	})
}

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }
