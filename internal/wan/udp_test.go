package wan

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fixed(d time.Duration) func(_, _ perigee.Region) time.Duration {
	return func(_, _ perigee.Region) time.Duration { return d }
}

func TestRealRoundTrip(t *testing.T) {
	const rtt, count = 20 * time.Millisecond, 50
	n := New(fixed(rtt))
	a, b := n.Wrap(listenUDP(t), "a"), n.Wrap(listenUDP(t), "b")
	defer a.Close()
	var echo sync.WaitGroup
	echo.Go(func() {
		buf := make([]byte, 100)
		for {
			k, from, err := b.ReadFrom(buf)
			if err != nil {
				return
			}
			b.WriteTo(buf[:k], from)
		}
	})
	defer echo.Wait()
	defer b.Close()
	took := make([]time.Duration, count)
	for i := range took {
		start := time.Now()
		send(t, a, b, "ping")
		receive(t, a)
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	t.Logf("min %v, median %v, max %v", took[0], took[count/2], took[count-1])
	if took[0] < rtt {
		t.Errorf("fastest of %d round trips took %v: nothing may be faster than %v", count, took[0], rtt)
	}
	if took[0] > rtt+3*time.Millisecond { // the least disturbed one: the machine may be busy
		t.Errorf("fastest of %d round trips took %v, want about %v", count, took[0], rtt)
	}
}

func TestDeadlinePassesThrough(t *testing.T) {
	w := New(fixed(time.Second)).Wrap(listenUDP(t), "a")
	defer w.Close()
	if err := w.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.ReadFrom(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ReadFrom: %v, want os.ErrDeadlineExceeded", err)
	}
}

// TestEverythingAtOnce finds races and deadlocks: writers, changes of every rule, and closing.
func TestEverythingAtOnce(t *testing.T) {
	n := New(fixed(2 * time.Millisecond))
	regions := []perigee.Region{"a", "b", "c"}
	var conns []net.PacketConn
	for _, r := range regions {
		conns = append(conns, n.Wrap(listenUDP(t), r))
	}
	var writers, readers, rules sync.WaitGroup
	for _, c := range conns {
		readers.Go(func() {
			buf := make([]byte, 100)
			for {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
			}
		})
		for range 4 {
			writers.Go(func() {
				for i := range 500 {
					if _, err := c.WriteTo([]byte("x"), conns[i%len(conns)].LocalAddr()); err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("WriteTo: %v", err)
						}
						return
					}
				}
			})
		}
	}
	rules.Go(func() {
		for i := range 300 {
			n.SetLoss("a", "b", float64(i%3)/2)
			n.Block("b", "c", i%2 == 0)
			n.Cut("c", i%5 == 0)
			n.Wrap(listenUDP(t), "a").Close()
		}
	})
	conns[2].Close()
	writers.Wait()
	rules.Wait()
	for _, c := range conns {
		c.Close()
	}
	readers.Wait()
}
