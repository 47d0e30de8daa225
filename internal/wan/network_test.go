package wan

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

// world is three sockets far apart, in fake time: fra-wdc 91 ms, fra-syd 250 and 249 ms, wdc-syd 214 ms.
type world struct {
	ether         *ether
	net           *Network
	fra, wdc, syd net.PacketConn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	e := newEther()
	n := New(Published().Between(perigee.BuiltinRegions()))
	w := &world{
		ether: e, net: n,
		fra: n.Wrap(e.listen(t, "127.0.0.1:1"), "fra"),
		wdc: n.Wrap(e.listen(t, "127.0.0.1:2"), "wdc"),
		syd: n.Wrap(e.listen(t, "127.0.0.1:3"), "syd"),
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{w.fra, w.wdc, w.syd} {
			c.Close()
		}
	})
	return w
}

// inBubble runs a test in fake time with a fresh world.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

// arrived counts what reached a socket and was not read, once all goroutines rest.
func arrived(c net.PacketConn) int {
	synctest.Wait()
	return len(c.(*endpoint).PacketConn.(*port).in)
}

func TestPacketTakesHalfTheRoundTrip(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		send(t, w.fra, w.wdc, "ping")
		if got := receive(t, w.wdc); got != "ping" {
			t.Errorf("received %q", got)
		}
		if got := time.Since(start); got != 91*time.Millisecond/2 {
			t.Errorf("one way took %v, want half of 91 ms", got)
		}
		send(t, w.wdc, w.fra, "pong")
		receive(t, w.fra)
		if got := time.Since(start); got != 91*time.Millisecond {
			t.Errorf("round trip took %v, want 91 ms", got)
		}
	})
}

func TestNearOvertakesFar(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		send(t, w.fra, w.syd, "far")
		send(t, w.fra, w.wdc, "near")
		receive(t, w.wdc)
		if got := time.Since(start); got != 91*time.Millisecond/2 {
			t.Errorf("near took %v behind far, want 45.5 ms", got)
		}
		receive(t, w.syd)
		if got := time.Since(start); got != 125*time.Millisecond {
			t.Errorf("far took %v, want 125 ms", got)
		}
	})
}

func TestDataIsCopied(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b := []byte("before")
		if _, err := w.fra.WriteTo(b, w.wdc.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		copy(b, "after!")
		if got := receive(t, w.wdc); got != "before" {
			t.Errorf("received %q: the network kept the caller's buffer", got)
		}
	})
}

func TestOrderHoldsWhenDistanceShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEther()
		var rtt atomic.Int64
		n := New(func(_, _ perigee.Region) time.Duration { return time.Duration(rtt.Load()) })
		a, b := n.Wrap(e.listen(t, "127.0.0.1:1"), "a"), n.Wrap(e.listen(t, "127.0.0.1:2"), "b")
		defer a.Close()
		defer b.Close()
		const count = 1000
		go func() {
			for i := range count {
				rtt.Store(int64(time.Duration((i*7919)%40) * time.Millisecond)) // 0 among them: no delay
				if _, err := a.WriteTo([]byte(fmt.Sprint(i)), b.LocalAddr()); err != nil {
					t.Errorf("packet %d: %v", i, err)
				}
				if i%10 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
		for i := range count {
			if got := receive(t, b); got != fmt.Sprint(i) {
				t.Fatalf("received %s as number %d", got, i)
			}
		}
	})
}

func TestUndelayedDoesNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEther()
		var rtt atomic.Int64
		n := New(func(_, _ perigee.Region) time.Duration { return time.Duration(rtt.Load()) })
		a, b := n.Wrap(e.listen(t, "127.0.0.1:1"), "a"), n.Wrap(e.listen(t, "127.0.0.1:2"), "b")
		defer a.Close()
		defer b.Close()
		rtt.Store(int64(10 * time.Millisecond))
		send(t, a, b, "first")
		time.Sleep(2 * time.Millisecond)
		send(t, a, b, "second")
		time.Sleep(4 * time.Millisecond) // the first is there, the second is not
		rtt.Store(0)
		send(t, a, b, "third")
		for _, want := range []string{"first", "second", "third"} {
			if got := receive(t, b); got != want {
				t.Errorf("received %s, want %s", got, want)
			}
		}
	})
}

func TestWhatPassesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		stranger := w.ether.listen(t, "127.0.0.1:9")
		neighbour := w.net.Wrap(w.ether.listen(t, "127.0.0.1:4"), "fra")
		defer neighbour.Close()
		start := time.Now()
		send(t, w.fra, stranger, "out of the network")
		receive(t, stranger)
		send(t, stranger, w.fra, "into the network")
		receive(t, w.fra)
		send(t, w.fra, neighbour, "within a region")
		receive(t, neighbour)
		if got := time.Since(start); got != 0 {
			t.Errorf("took %v, want no time", got)
		}
	})
}

func TestFullQueueDropsTheLast(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for i := range maxPackets + 100 {
			send(t, w.fra, w.wdc, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		if got := arrived(w.wdc); got != maxPackets {
			t.Fatalf("%d packets arrived, want %d", got, maxPackets)
		}
		for i := range maxPackets {
			if got := receive(t, w.wdc); got != fmt.Sprint(i) {
				t.Fatalf("received %s as number %d: want the first ones", got, i)
			}
		}
		send(t, w.fra, w.wdc, "room again")
		if got := receive(t, w.wdc); got != "room again" {
			t.Errorf("received %q", got)
		}
	})
}

func TestBytesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		big := strings.Repeat("x", 64<<10)
		for _, want := range []int{maxBytes / len(big), 2 * maxBytes / len(big)} { // the second time there is room again
			for range 2 * maxBytes / len(big) {
				send(t, w.fra, w.wdc, big)
			}
			time.Sleep(time.Second)
			if got := arrived(w.wdc); got != want {
				t.Errorf("%d packets of 64 KiB arrived, want %d", got, want)
			}
		}
	})
}

func TestLoss(t *testing.T) {
	const count = 5000 // twice that fits a socket's queue
	lossOf := func(p float64) (there, back, other int) {
		inBubble(t, func(t *testing.T, w *world) {
			w.net.SetLoss("fra", "wdc", p)
			for range count {
				send(t, w.fra, w.wdc, "x")
				send(t, w.wdc, w.fra, "x")
				send(t, w.fra, w.syd, "x")
			}
			time.Sleep(time.Second)
			there, back, other = count-arrived(w.wdc), count-arrived(w.fra), count-arrived(w.syd)
		})
		return there, back, other
	}
	for _, p := range []float64{0, 0.3, 1} {
		there, back, other := lossOf(p)
		for _, lost := range []int{there, back} {
			if rate := float64(lost) / count; rate < p-0.03 || rate > p+0.03 || (p == 0 && lost > 0) || (p == 1 && lost < count) {
				t.Errorf("loss %v: %d of %d lost", p, lost, count)
			}
		}
		if other != 0 {
			t.Errorf("loss %v between fra and wdc: %d lost on the way to syd", p, other)
		}
		if again, _, _ := lossOf(p); again != there {
			t.Errorf("loss %v: %d lost, then %d: want the same each time", p, there, again)
		}
	}
}

func TestBlock(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		send(t, w.fra, w.wdc, "under way when it happens")
		w.net.Block("wdc", "fra", true)
		send(t, w.fra, w.wdc, "x")
		send(t, w.wdc, w.fra, "x")
		send(t, w.fra, w.syd, "x")
		time.Sleep(time.Second)
		if fra, wdc, syd := arrived(w.fra), arrived(w.wdc), arrived(w.syd); fra != 0 || wdc != 0 || syd != 1 {
			t.Errorf("arrived at fra %d, wdc %d, syd %d: want 0, 0, 1", fra, wdc, syd)
		}
		w.net.Block("fra", "wdc", false)
		send(t, w.fra, w.wdc, "healed")
		if got := receive(t, w.wdc); got != "healed" {
			t.Errorf("received %q", got)
		}
	})
}

func TestCut(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		stranger := w.ether.listen(t, "127.0.0.1:9")
		neighbour := w.net.Wrap(w.ether.listen(t, "127.0.0.1:4"), "wdc")
		defer neighbour.Close()
		send(t, w.fra, w.wdc, "under way when it happens")
		send(t, w.wdc, w.syd, "under way when it happens")
		w.net.Cut("wdc", true)
		for _, to := range []net.PacketConn{w.fra, w.syd, neighbour, stranger} {
			send(t, w.wdc, to, "x")
		}
		send(t, w.fra, w.wdc, "x")
		send(t, w.fra, w.syd, "x")
		time.Sleep(time.Second)
		if fra, wdc, syd, near, out := arrived(w.fra), arrived(w.wdc), arrived(w.syd), arrived(neighbour), len(stranger.in); fra+wdc+near+out != 0 || syd != 1 {
			t.Errorf("arrived at fra %d, wdc %d, its neighbour %d, a stranger %d, syd %d: want 0, 0, 0, 0, 1", fra, wdc, near, out, syd)
		}
		w.net.Cut("wdc", false)
		send(t, w.wdc, w.fra, "healed")
		if got := receive(t, w.fra); got != "healed" {
			t.Errorf("received %q", got)
		}
	})
}

func TestCloseSendsWhatWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		for i := range 100 {
			send(t, w.fra, w.wdc, fmt.Sprint(i))
		}
		if err := w.fra.Close(); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if got := receive(t, w.wdc); got != fmt.Sprint(i) {
				t.Fatalf("received %s as number %d", got, i)
			}
		}
		if got := time.Since(start); got != 0 {
			t.Errorf("took %v", got)
		}
	})
}

func TestClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		reading := make(chan error, 1)
		go func() {
			_, _, err := w.fra.ReadFrom(make([]byte, 1))
			reading <- err
		}()
		synctest.Wait()
		if err := w.fra.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-reading; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadFrom: %v, want net.ErrClosed", err)
		}
		_, err := w.fra.WriteTo([]byte("x"), w.wdc.LocalAddr())
		if op := new(net.OpError); !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
			t.Errorf("WriteTo: %v, want a *net.OpError of net.ErrClosed", err)
		}
		if err := w.fra.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		start := time.Now()
		fra2 := w.ether.listen(t, "127.0.0.1:1")
		send(t, w.wdc, fra2, "the address is nobody's now")
		receive(t, fra2)
		if got := time.Since(start); got != 0 {
			t.Errorf("a packet to a forgotten address took %v", got)
		}
	})
}

func TestCloseOfTheOldKeepsTheNew(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		second := w.net.Wrap(w.ether.listen(t, "127.0.0.1:1"), "tok") // took over the address of fra
		defer second.Close()
		w.fra.Close()
		start := time.Now()
		send(t, w.syd, second, "x")
		receive(t, second)
		if got := time.Since(start); got != 115*time.Millisecond/2 {
			t.Errorf("syd to tok took %v, want half of 115 ms", got)
		}
	})
}

func TestSocketBoundToAllAddresses(t *testing.T) {
	for _, bound := range []string{"0.0.0.0:7", "[::]:7"} {
		inBubble(t, func(t *testing.T, w *world) {
			any := w.net.Wrap(w.ether.listen(t, bound), "syd")
			defer any.Close()
			for _, to := range []string{"127.0.0.1:7", "[::1]:7", "[::ffff:127.0.0.1]:7"} {
				u, err := net.ResolveUDPAddr("udp", to)
				if err != nil {
					t.Fatal(err)
				}
				if way := w.net.path("fra", addressOf(u)); !way.known || way.to != "syd" {
					t.Errorf("%s of a socket bound to %s: not known to be in syd", to, bound)
				}
			}
		})
	}
}

func TestOtherAddresses(t *testing.T) {
	n := New(func(_, _ perigee.Region) time.Duration { return 0 })
	a := &net.UnixAddr{Net: "unixgram", Name: "/a"}
	n.homes[addressOf(a)] = home{region: "fra"}
	if way := n.path("wdc", addressOf(&net.UnixAddr{Net: "unixgram", Name: "/a"})); way.to != "fra" {
		t.Errorf("an equal address is not found: %+v", way)
	}
	if way := n.path("wdc", addressOf(&net.UnixAddr{Net: "unixgram", Name: "/b"})); way.known {
		t.Errorf("another address is found: %+v", way)
	}
}

func TestNilAddressIsTheSocketsError(t *testing.T) {
	c := listenUDP(t)
	w := New(func(_, _ perigee.Region) time.Duration { return 0 }).Wrap(c, "fra")
	defer w.Close()
	if _, err := w.WriteTo([]byte("x"), nil); err == nil {
		t.Error("no error")
	}
}

func TestNoWayAroundTheDelay(t *testing.T) {
	w := New(func(_, _ perigee.Region) time.Duration { return 0 }).Wrap(listenUDP(t), "fra")
	defer w.Close()
	if _, ok := w.(interface {
		SyscallConn() (syscall.RawConn, error)
	}); ok {
		t.Error("has SyscallConn")
	}
	if _, ok := w.(interface {
		WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	}); ok {
		t.Error("has WriteMsgUDP")
	}
	if _, ok := w.(io.Writer); ok {
		t.Error("has Write")
	}
}

func TestBufferSizesPassThrough(t *testing.T) {
	type buffers interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}
	n := New(func(_, _ perigee.Region) time.Duration { return 0 })
	real := n.Wrap(listenUDP(t), "fra")
	defer real.Close()
	if b := real.(buffers); b.SetReadBuffer(1<<16) != nil || b.SetWriteBuffer(1<<16) != nil {
		t.Error("refused by a UDP socket")
	}
	fake := n.Wrap(newEther().listen(t, "127.0.0.1:1"), "fra")
	defer fake.Close()
	b := fake.(buffers)
	for _, err := range []error{b.SetReadBuffer(1), b.SetWriteBuffer(1)} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v, want errors.ErrUnsupported", err)
		}
	}
}
