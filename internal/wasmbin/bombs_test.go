package wasmbin_test

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// TestBombs checks that each bomb is refused by its rule, fast, and that those within all limits pass.
func TestBombs(t *testing.T) {
	kinds := map[string]bool{}
	for name, bomb := range bombs() {
		kinds[bomb.Kind] = true
		b := bomb.Wasm(name.size)
		most := 200*time.Millisecond + time.Duration(len(b))*time.Microsecond
		took, err := check(b)
		for try := 1; took > most && try < 5; try++ { // the machine may be busy with others
			took, err = check(b)
		}
		var refused *wasmbin.Error
		switch errors.As(err, &refused); {
		case bomb.Rule == "":
			if err != nil {
				t.Errorf("%s (%d bytes) is meant to pass: %v", name, len(b), err)
			}
		case refused == nil || refused.Rule != bomb.Rule || refused.Detail == "":
			t.Errorf("%s (%d bytes): %v, want it refused by %s", name, len(b), err, bomb.Rule)
		}
		if took > most {
			t.Errorf("%s: took %v, more than %v", name, took, most)
		}
	}
	if len(kinds) < 40 {
		t.Errorf("%d kinds", len(kinds))
	}
}

// check checks a file, and says how long that took.
func check(b []byte) (took time.Duration, err error) {
	start := time.Now()
	_, err = wasmbin.Check(b)
	return time.Since(start), err
}

// bombName is a kind with a size.
type bombName struct {
	kind string
	size int
}

func (n bombName) String() string { return fmt.Sprint(n.kind, "/", n.size) }

// bombs goes through all kinds and sizes.
func bombs() iter.Seq2[bombName, Bomb] {
	return func(yield func(bombName, Bomb) bool) {
		for _, b := range Bombs() {
			for _, n := range b.Sizes {
				if !yield(bombName{b.Kind, n}, b) {
					return
				}
			}
		}
	}
}

// TestAllocationsAreBounded checks that no file makes Check allocate far more than its own size.
func TestAllocationsAreBounded(t *testing.T) {
	for name, bomb := range bombs() {
		b := bomb.Wasm(name.size)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := wasmbin.Check(b)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<10+100*len(b)); got > most {
			t.Errorf("%s (%d bytes): allocates %d bytes, more than %d: %v", name, len(b), got, most, err)
		}
	}
}
