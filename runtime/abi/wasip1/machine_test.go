package wasip1_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

const pages = 2 * 65536 // bytes of the caller's memory

// TestStrings reads arguments and environment.
func TestStrings(t *testing.T) {
	g := newGuest(t, wasip1.Config{Args: []string{"prog", "", "ü\n\"x"}, Env: []string{"A=1", "B=a\x00b", "C="}})
	for name, want := range map[string][]string{"args": {"prog", "", "ü\n\"x"}, "environ": {"A=1", "C="}} {
		g.want(0, name+"_sizes_get", 64, 72)
		size := len(strings.Join(want, "\x00")) + 1
		if g.u32(64) != uint32(len(want)) || g.u32(72) != uint32(size) {
			t.Errorf("%s: %d, %d bytes", name, g.u32(64), g.u32(72))
		}
		g.want(0, name+"_get", 4096, 8192)
		for i, text := range want {
			ptr := g.u32(4096 + 4*uint32(i))
			if got := string(g.bytes(ptr, uint32(len(text)+1))); got != text+"\x00" {
				t.Errorf("%s %d: %q, want %q", name, i, got, text)
			}
		}
		g.want(fault, name+"_sizes_get", pages, 72)
		g.want(fault, name+"_sizes_get", 64, pages-3)
		g.want(fault, name+"_get", pages-4, 8192)
		g.want(fault, name+"_get", 1<<32-4, 8192)
		g.want(fault, name+"_get", 4096, uint64(pages-size+1))
	}
}

// TestClocks compares the clocks with the host's.
func TestClocks(t *testing.T) {
	g := newGuest(t, wasip1.Config{})
	before := time.Now()
	g.want(0, "clock_time_get", 0, 0, 64)
	if got := time.Unix(0, int64(g.u64(64))); got.Before(before.Round(0)) || got.After(time.Now().Round(0)) {
		t.Errorf("realtime %v, began %v", got, before)
	}
	g.want(0, "clock_time_get", 1, 0, 64)
	g.want(0, "clock_time_get", 1, 0, 72)
	if g.u64(72) < g.u64(64) || g.u64(64) == 0 {
		t.Errorf("monotonic %d, then %d", g.u64(64), g.u64(72))
	}
	other := newGuest(t, wasip1.Config{})
	other.want(0, "clock_time_get", 1, 0, 64)
	if other.u64(64) < g.u64(72) {
		t.Errorf("monotonic %d, and then %d in another system", g.u64(72), other.u64(64))
	}
	for id := range uint64(2) {
		g.want(0, "clock_res_get", id, 64)
		if g.u64(64) != 1 {
			t.Errorf("resolution %d", g.u64(64))
		}
		g.want(fault, "clock_time_get", id, 0, pages-7)
		g.want(fault, "clock_res_get", id, pages-7)
	}
	for _, id := range []uint64{2, 3, 4, 1<<32 - 1} {
		g.want(inval, "clock_time_get", id, 0, 64)
		g.want(inval, "clock_res_get", id, 64)
	}
}

// TestRandom asks for random bytes of several sizes.
func TestRandom(t *testing.T) {
	checks := 0
	g := newGuest(t, wasip1.Config{Check: func() { checks++ }})
	g.want(0, "random_get", 8192, 16)
	first := g.bytes(8192, 17)
	g.want(0, "random_get", 8192, 16)
	if second := g.bytes(8192, 17); bytes.Equal(first[:16], second[:16]) || second[16] != 0 {
		t.Errorf("%x, then %x", first, second)
	}
	g.want(0, "random_get", pages, 0)
	g.want(fault, "random_get", pages-1, 2)
	g.want(fault, "random_get", 1, 1<<32-1)
	checks = 0
	g.want(0, "random_get", 0, pages)
	if checks != 2 {
		t.Errorf("%d looks while 128 KiB were made, want 2", checks)
	}
}

// TestStreams writes and reads the standard streams.
func TestStreams(t *testing.T) {
	var out, errs bytes.Buffer
	g := newGuest(t, wasip1.Config{Stdin: iotest.OneByteReader(strings.NewReader("in")), Stdout: &out, Stderr: &errs})
	g.mod.Memory().WriteString(8192, "hello")
	ptr, n := g.iovec(5)
	g.want(0, "fd_write", 1, ptr, n, 64)
	g.want(0, "fd_write", 2, ptr, n, 64)
	if out.String() != "hello" || errs.String() != "hello" || g.u32(64) != 5 {
		t.Errorf("%q, %q, %d", &out, &errs, g.u32(64))
	}
	g.want(badf, "fd_write", 0, ptr, n, 64)
	g.want(badf, "fd_read", 1, ptr, n, 64)
	g.want(spipe, "fd_pread", 0, ptr, n, 0, 64)
	g.want(badf, "fd_write", 9, ptr, n, 64)
	g.want(inval, "fd_write", 1, ptr, 1025, 64)
	g.want(fault, "fd_write", 1, pages-7, n, 64)
	g.want(fault, "fd_write", 1, ptr, n, pages-3)
	if got := g.read(0, 10) + "|" + g.read(0, 0) + "|" + g.read(0, 10) + "|" + g.read(0, 10); got != "i||n|" {
		t.Errorf("input %q", got)
	}

	g.sys.Reset(wasip1.Config{Stdin: iotest.ErrReader(errors.New("gone")), Stdout: failing{}})
	g.want(ioError, "fd_read", 0, ptr, n, 64)
	g.want(ioError, "fd_write", 1, ptr, n, 64)
	g.want(0, "fd_write", 2, ptr, n, 64)
	g.sys.Reset(wasip1.Config{Stdin: nothing{}})
	g.want(ioError, "fd_read", 0, ptr, n, 64)
	g.sys.Reset(wasip1.Config{})
	if got := g.read(0, 10); got != "" {
		t.Errorf("%q from no input", got)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, nil }

// TestTransferIsBounded writes the same memory many times with one call: it has to ask again for what is
// above the bound.
func TestTransferIsBounded(t *testing.T) {
	var out bytes.Buffer
	g := newGuest(t, wasip1.Config{Stdout: &out})
	for i := range uint32(100) {
		g.mod.Memory().WriteUint32Le(1024+8*i, 0)
		g.mod.Memory().WriteUint32Le(1028+8*i, 100_000)
	}
	g.want(0, "fd_write", 1, 1024, 100, 64)
	if out.Len() != 1<<20 || g.u32(64) != 1<<20 {
		t.Errorf("%d bytes were written, %d said", out.Len(), g.u32(64))
	}
}

// subscription is one of poll_oneoff.
func (g *guest) subscription(i uint32, user uint64, tag byte, fields ...uint64) {
	m, at := g.mod.Memory(), 4096+48*i
	m.Write(at, make([]byte, 48))
	m.WriteUint64Le(at, user)
	m.WriteByte(at+8, tag)
	for j, f := range fields { // id or descriptor, timeout, precision, flags
		m.WriteUint64Le(at+16+8*uint32(j), f)
	}
}

type event struct {
	user  uint64
	errno uint16
	tag   byte
	bytes uint64
}

// poll polls and returns the events.
func (g *guest) poll(n uint64) (out []event) {
	g.t.Helper()
	g.want(0, "poll_oneoff", 4096, 8192, n, 64)
	for i := range g.u32(64) {
		b := g.bytes(8192+32*i, 32)
		out = append(out, event{le.Uint64(b), le.Uint16(b[8:]), b[10], le.Uint64(b[16:])})
	}
	return out
}

func TestPoll(t *testing.T) {
	var slept time.Duration
	g := newGuest(t, wasip1.Config{Files: site(), Sleep: func(d time.Duration) { slept += d }})
	f := g.open(root, "a.txt", 0)
	g.read(f, 3)
	poll := func(what string, sleep time.Duration, want ...event) {
		t.Helper()
		slept = 0
		n := uint64(0)
		for m := g.mod.Memory(); ; n++ {
			if user, _ := m.ReadUint64Le(4096 + 48*uint32(n)); user == 0 {
				break
			}
		}
		got := g.poll(n)
		if d := slept - sleep; !slices.Equal(got, want) || d < -time.Second || d > time.Second {
			t.Errorf("%s: %v after %v; want %v after %v", what, got, slept, want, sleep)
		}
		g.mod.Memory().Write(4096, make([]byte, 4096))
	}
	const hour = uint64(time.Hour)
	g.subscription(0, 7, 0, 1, hour, 0, 0)
	poll("relative", time.Hour, event{7, 0, 0, 0})
	g.subscription(0, 7, 0, 0, hour, 0, 0)
	g.subscription(1, 8, 0, 1, 2*hour, 0, 0)
	g.subscription(2, 9, 0, 1, hour, 0, 0)
	poll("the first of several", time.Hour, event{7, 0, 0, 0}, event{9, 0, 0, 0})
	g.subscription(0, 7, 0, 0, uint64(time.Now().Add(time.Hour).UnixNano()), 0, 1)
	poll("absolute", time.Hour, event{7, 0, 0, 0})
	g.want(0, "clock_time_get", 1, 0, 64)
	g.subscription(0, 7, 0, 1, g.u64(64)+hour, 0, 1)
	g.subscription(1, 8, 0, 0, 1, 0, 0)
	poll("a moment", 0, event{8, 0, 0, 0})
	g.subscription(0, 7, 0, 1, 5, 0, 1)
	poll("past", 0, event{7, 0, 0, 0})
	g.subscription(0, 7, 0, 1, 1<<64-1, 0, 0)
	slept = 0
	g.poll(1)
	if slept != 1<<63-1 {
		t.Errorf("for ever is %v", slept)
	}
	g.subscription(0, 7, 0, 2, hour, 0, 0)
	g.subscription(1, 8, 0, 1, hour, 0, 2)
	poll("clocks and flags that are not", 0, event{7, inval, 0, 0}, event{8, inval, 0, 0})
	g.subscription(0, 7, 1, 0)
	g.subscription(1, 8, 0, 1, hour, 0, 0)
	poll("input", 0, event{7, 0, 1, 1})
	g.subscription(0, 1, 1, f)
	g.subscription(1, 2, 2, 1)
	g.subscription(2, 3, 2, f)
	g.subscription(3, 4, 1, 2)
	g.subscription(4, 5, 1, 99)
	g.subscription(5, 6, 2, 99)
	g.subscription(6, 7, 1, root)
	poll("descriptors", 0, event{1, 0, 1, 7}, event{2, 0, 2, 1 << 20}, event{3, badf, 2, 0}, event{4, badf, 1, 0},
		event{5, badf, 1, 0}, event{6, badf, 2, 0}, event{7, notcapable, 1, 0})
	g.subscription(0, 1, 3, 0)
	g.want(inval, "poll_oneoff", 4096, 8192, 1, 64)
	g.want(inval, "poll_oneoff", 4096, 8192, 0, 64)
	g.want(inval, "poll_oneoff", 4096, 8192, 1<<27, 64) // 48 times that is 0 in 32 bits, times 2
	g.want(inval, "poll_oneoff", 4096, 8192, 4097, 64)
	g.want(fault, "poll_oneoff", pages-47, 8192, 1, 64)
	g.want(fault, "poll_oneoff", 4096, pages-31, 1, 64)
	g.want(fault, "poll_oneoff", 4096, 8192, 1, pages-3)
}

// TestSleepOfItsOwn waits without a Sleep of the request.
func TestSleepOfItsOwn(t *testing.T) {
	g := newGuest(t, wasip1.Config{})
	g.subscription(0, 7, 0, 1, uint64(20*time.Millisecond), 0, 0)
	began := time.Now()
	g.poll(1)
	if d := time.Since(began); d < 20*time.Millisecond {
		t.Errorf("slept %v", d)
	}
}

// TestRest covers what is not there, and the end.
func TestRest(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site()})
	g.want(0, "sched_yield")
	g.want(nosys, "proc_raise", 6)
	for fd := range uint64(4) {
		g.want(notsock, "sock_accept", fd, 0, 64)
		g.want(notsock, "sock_recv", fd, 512, 1, 0, 64, 72)
		g.want(notsock, "sock_send", fd, 512, 1, 0, 64)
		g.want(notsock, "sock_shutdown", fd, 3)
	}
	g.want(badf, "sock_accept", 4, 0, 64)
	g.want(badf, "sock_recv", 1<<31, 512, 1, 0, 64, 72)
	g.want(badf, "sock_send", 99, 512, 1, 0, 64)
	g.want(badf, "sock_shutdown", 1<<32-1, 3)
	for _, code := range []uint64{0, 1, 255, 1<<32 - 1} {
		_, err := g.mod.ExportedFunction("proc_exit").Call(g.ctx, code)
		if err == nil || exitCode(t, err) != uint32(code) {
			t.Errorf("exit with %d: %v", code, err)
		}
	}
	if g.mod.IsClosed() {
		t.Error("proc_exit closed the module")
	}
	g.want(0, "sched_yield")
}

var errOver = errors.New("the request is over")

// TestCheck ends each function, when the request is over, before it does anything.
func TestCheck(t *testing.T) {
	over := false
	g := newGuest(t, wasip1.Config{Files: site(), Check: func() {
		if over {
			panic(errOver)
		}
	}})
	over = true
	for name, sig := range wasip1.Signatures() {
		args := make([]uint64, strings.IndexByte(sig, ':'))
		if _, err := g.mod.ExportedFunction(name).Call(g.ctx, args...); !errors.Is(err, errOver) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

// TestCheckAfterSleep ends a guest whose request ended while it waited.
func TestCheckAfterSleep(t *testing.T) {
	over := false
	g := newGuest(t, wasip1.Config{Sleep: func(time.Duration) { over = true }, Check: func() {
		if over {
			panic(errOver)
		}
	}})
	g.subscription(0, 7, 0, 1, 1000, 0, 0)
	if _, err := g.mod.ExportedFunction("poll_oneoff").Call(g.ctx, 4096, 8192, 1, 64); !errors.Is(err, errOver) {
		t.Errorf("after the end: %v", err)
	}
}

// TestNoMemory calls all functions from a module that has no memory: whatever needs one is refused.
func TestNoMemory(t *testing.T) {
	g := instantiate(t, caller(false), wasip1.Config{Args: []string{"x"}, Env: []string{"x"}, Files: site()})
	for _, name := range slices.Sorted(maps.Keys(wasip1.Signatures())) {
		sig := wasip1.Signatures()[name]
		if name == "proc_exit" {
			continue
		}
		for first := range uint64(5) {
			args := make([]uint64, strings.IndexByte(sig, ':'))
			for i := range args {
				args[i] = 1
			}
			if len(args) > 0 {
				args[0] = first
			}
			if e := g.call(name, args...); e == 0 && strings.Contains("fd_write fd_read random_get poll_oneoff path_open args_get clock_time_get", name) {
				t.Errorf("%s%v succeeds without memory", name, args)
			}
		}
	}
}

// TestContext has one host module for two guests, each with its own system.
func TestContext(t *testing.T) {
	a := newGuest(t, wasip1.Config{Args: []string{"a"}})
	b := wasip1.New(wasip1.Config{Args: []string{"b", "c"}})
	a.want(0, "args_sizes_get", 64, 72)
	if a.u32(64) != 1 {
		t.Errorf("%d arguments", a.u32(64))
	}
	a.ctx = b.Context(context.Background())
	a.want(0, "args_sizes_get", 64, 72)
	if a.u32(64) != 2 {
		t.Errorf("%d arguments with the other system", a.u32(64))
	}
}
