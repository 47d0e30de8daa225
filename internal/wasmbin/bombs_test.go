package wasmbin_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// claims are section contents that begin with a count; each section is tried with counts that the
// file can't hold.
var claims = map[string]int{
	"type": 1, "import": 2, "function": 3, "table": 4, "global": 6, "export": 7, "element": 9, "code": 10, "data": 11,
}

// module wraps one function, with n copies of it declared.
func module(copies int, locals []byte, body ...any) []byte {
	code := Cat(locals, Cat(body...), 0x0b)
	return Cat(Preamble,
		Section(1, 1, 0x60, 0, 0),
		Section(3, U(uint64(copies)), Repeat(copies, 0)),
		Section(4, 1, 0x70, 0, 1),
		Section(5, 1, 0, 1),
		Section(10, U(uint64(copies)), Repeat(copies, U(uint64(len(code))), code)))
}

// bombs are files that cost a careless reader or compiler far more than their size.
func bombs() map[string][]byte {
	all := map[string][]byte{}
	for name, id := range claims {
		for _, n := range []uint64{1 << 14, 1 << 24, 1<<32 - 1} {
			all[fmt.Sprintf("count/%s/%d", name, n)] = Cat(Preamble, Section(id, U(n)))
		}
	}
	none := []byte{0}
	for name, b := range map[string][]byte{
		"locals/200M":         module(1, Cat(1, U(200_000_000), 0x7f)),
		"locals/groups":       module(1, Cat(U(40), Repeat(40, U(1<<32-1), 0x7f))),
		"locals/all":          module(1000, Cat(1, U(10_000), 0x7f)),
		"locals/claimed":      Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(3, 1, 0), Section(10, 1, 6, U(1<<32-1), 0x0b)),
		"nesting/block":       module(1, none, Repeat(100_000, 0x02, 0x40), Repeat(100_000, 0x0b)),
		"nesting/loop":        module(1, none, Repeat(100_000, 0x03, 0x40), Repeat(100_000, 0x0b)),
		"nesting/if":          module(1, none, Repeat(100_000, 0x41, 0, 0x04, 0x40), Repeat(100_000, 0x0b)),
		"br_table/200k":       module(1, none, Const(0), 0x0e, U(200_000), Repeat(200_001, 0)),
		"br_table/claimed":    module(1, none, Const(0), 0x0e, U(1<<32-1), 0),
		"work/loops":          module(1, Cat(1, U(1000), 0x7f), Repeat(60_000, 0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b), Repeat(1000, 0x20, 0, 0x1a)),
		"work/ifs":            module(1, Cat(1, U(1000), 0x7f), Repeat(40_000, 0x20, 0, 0x04, 0x40, Const(1), 0x21, 7, 0x0b)),
		"body/1M":             module(1, none, Repeat(1_000_000, 0x01)),
		"params/claimed":      Cat(Preamble, Section(1, 1, 0x60, U(1<<32-1))),
		"params/100k":         Cat(Preamble, Section(1, 1, 0x60, U(100_000), Repeat(100_000, 0x7f), 0)),
		"results/1000":        Cat(Preamble, Section(1, 1, 0x60, 0, U(1000), Repeat(1000, 0x7f))),
		"types/100k":          Cat(Preamble, Section(1, U(100_000), Repeat(100_000, 0x60, 0, 0))),
		"functions/1M":        Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(3, U(1_000_000), Repeat(1_000_000, 0))),
		"tables/1000":         Cat(Preamble, Section(4, U(1000), Repeat(1000, 0x70, 0, 1))),
		"table/4G":            Cat(Preamble, Section(4, 1, 0x70, 0, U(1<<32-1))),
		"table/100M":          Cat(Preamble, Section(4, 1, 0x70, 0, U(100_000_000))),
		"table.grow":          module(1, none, 0xd0, 0x70, Const(100_000), 0xfc, 15, 0, 0x1a),
		"memory/huge":         Cat(Preamble, Section(5, 1, 0, U(1<<32-1))),
		"globals/1M":          Cat(Preamble, Section(6, U(1_000_000), Repeat(1_000_000, 0x7f, 0, Const(0), 0x0b))),
		"imports/100k":        Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(2, U(100_000), Repeat(100_000, Name("a"), Name("b"), 0, 0))),
		"exports/100k":        Cat(Preamble, Section(7, U(100_000), Repeat(100_000, Name(""), 0, 0))),
		"elements/500k":       Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(3, 1, 0), Section(9, 1, 1, 0, U(500_000), Repeat(500_000, 0))),
		"elements/claimed":    Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(3, 1, 0), Section(9, 1, 1, 0, U(1<<32-1))),
		"elements/segments":   Cat(Preamble, Section(9, U(100_000), Repeat(100_000, 1, 0, 0))),
		"data/1M":             Cat(Preamble, Section(5, 1, 0, 1), Section(11, U(1_000_000), Repeat(1_000_000, 1, 0))),
		"data/claimed":        Cat(Preamble, Section(5, 1, 0, 1), Section(11, 1, 1, U(1<<32-1))),
		"datacount/claimed":   Cat(Preamble, Section(12, U(1<<32-1))),
		"name/1M":             Cat(Preamble, Section(7, 1, Name(string(Repeat(1_000_000, "a"))), 0, 0)),
		"name/claimed":        Cat(Preamble, Section(0, U(1<<32-1), "name")),
		"custom/name claimed": Cat(Preamble, Section(0, U(1<<31), "")),
		"section/claimed":     Cat(Preamble, 1, U(1<<32-1)),
		"leb/endless":         Cat(Preamble, 1, Repeat(1_000_000, 0x80)),
	} {
		all[name] = b
	}
	return all
}

// TestBombs checks that each bomb is refused by a rule, fast.
func TestBombs(t *testing.T) {
	for name, b := range bombs() {
		start := time.Now()
		m, err := wasmbin.Check(b)
		took := time.Since(start)
		var refused *wasmbin.Error
		if !errors.As(err, &refused) {
			t.Errorf("%s (%d bytes): accepted as %+v", name, len(b), m)
			continue
		}
		if refused.Rule == "" || refused.Detail == "" {
			t.Errorf("%s: refused without a reason: %v", name, err)
		}
		if most := 100*time.Millisecond + time.Duration(len(b))*time.Microsecond; took > most {
			t.Errorf("%s: took %v, more than %v", name, took, most)
		}
	}
}

// TestAllocationsAreBounded checks that no file makes Check allocate far more than its own size.
func TestAllocationsAreBounded(t *testing.T) {
	for name, b := range bombs() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := wasmbin.Check(b)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<10+100*len(b)); got > most {
			t.Errorf("%s (%d bytes): allocates %d bytes, more than %d: %v", name, len(b), got, most, err)
		}
	}
}
