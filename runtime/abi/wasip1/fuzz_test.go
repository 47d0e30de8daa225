package wasip1_test

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// FuzzFunctions calls functions with any arguments, over a memory of any content. Only proc_exit may end
// the guest, and nothing may be more than is allowed: the engine would notice a write out of memory as a
// panic, since the memory ends where its array does.
func FuzzFunctions(f *testing.F) {
	names := slices.Sorted(maps.Keys(wasip1.Signatures()))
	for i := range names {
		f.Add(byte(i), byte(0), uint64(3), uint64(0), uint64(1024), uint64(5), uint64(0), uint64(2), uint64(2), uint64(0), uint64(64), []byte("a.txt"))
		f.Add(byte(i), byte(31), uint64(3), uint64(1), uint64(1024), uint64(3), uint64(2), uint64(1<<30-1), uint64(1<<30-1), uint64(0), uint64(64), []byte("sub/to-up"))
		f.Add(byte(i), byte(15), uint64(0), uint64(1024), uint64(1), uint64(64), uint64(8), uint64(1<<32-1), uint64(1<<63), uint64(8), uint64(pages-4), []byte{0, 4, 0, 0, 255, 255, 255, 255})
	}
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	f.Cleanup(func() { _ = r.Close(ctx) })
	if err := wasip1.Instantiate(ctx, r); err != nil {
		f.Fatal(err)
	}
	s := wasip1.New(wasip1.Config{})
	mod, err := r.InstantiateWithConfig(s.Context(ctx), caller(true), wazero.NewModuleConfig().WithStartFunctions())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second byte, a0, a1, a2, a3, a4, a5, a6, a7, a8 uint64, memory []byte) {
		s.Reset(wasip1.Config{
			Args: []string{"a", "b"}, Env: []string{"A=1"}, Files: site(), MaxOpens: 6,
			Stdin: strings.NewReader("input"), Stdout: io.Discard, Stderr: io.Discard, Sleep: func(time.Duration) {},
		})
		mod.Memory().Write(0, make([]byte, pages))
		mod.Memory().Write(1024, memory[:min(len(memory), pages-1024)])
		for _, n := range []byte{first, second, first} {
			name := names[int(n)%len(names)]
			args := []uint64{a0, a1, a2, a3, a4, a5, a6, a7, a8}[:strings.IndexByte(wasip1.Signatures()[name], ':')]
			results, err := mod.ExportedFunction(name).Call(s.Context(ctx), args...)
			switch {
			case name == "proc_exit":
				if exitCode(t, err) != uint32(a0) {
					t.Fatalf("exit %d: %v", uint32(a0), err)
				}
			case err != nil:
				t.Fatalf("%s%v: %v", name, args, err)
			case results[0] > 76:
				t.Fatalf("%s%v: errno %d", name, args, results[0])
			}
		}
		if mod.Memory().Size() != pages {
			t.Fatalf("memory of %d bytes", mod.Memory().Size())
		}
	})
}
