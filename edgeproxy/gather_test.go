package edgeproxy

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pieces is a connection that takes whole writes, one when it is asked to.
type pieces struct {
	net.Conn
	next chan string
}

func (p pieces) Write(b []byte) (int, error)      { p.next <- string(b); return len(b), nil }
func (p pieces) SetWriteDeadline(time.Time) error { return nil }

// TestGather writes while a piece is on its way: what was written then is the next one.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := pieces{next: make(chan string)}
		g := newGather(to, time.Minute)
		for _, part := range []string{"alone", "two ", "in ", "one"} {
			if _, err := g.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		closed := make(chan error)
		go func() { closed <- g.Close() }()
		equal(t, "first", <-to.next, "alone")
		equal(t, "second", <-to.next, "two in one")
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := g.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
	})
}

// TestGatherHoldsLittle writes much to a client that takes nothing: it waits, and ends with the stall timeout.
func TestGatherHoldsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		g := newGather(near, time.Minute)
		defer g.Close()
		began := time.Now()
		n, err := g.Write(make([]byte, 1<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		equal(t, "bytes held", n <= 2*gatherMost, true)
		equal(t, "wait", time.Since(began), time.Minute)
	})
}

// TestGatherAll writes more than may wait, to a client that takes it a little at a time.
func TestGatherAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		g := newGather(near, time.Minute)
		want := strings.Repeat("0123456789abcdef", 20000)
		go func() {
			if _, err := io.WriteString(g, want); err != nil {
				t.Error(err)
			}
			_ = g.Close()
			near.Close()
		}()
		var got strings.Builder
		for part := make([]byte, 1000); ; {
			n, err := far.Read(part)
			got.Write(part[:n])
			if err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		equal(t, "what came", got.String() == want, true)
	})
}

// TestGatherFails ends a connection whose client is to have nothing more, and takes nothing.
func TestGatherFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		g := newGather(near, time.Minute)
		_, _ = io.WriteString(g, "for nobody")
		synctest.Wait()
		began := time.Now()
		g.fail(errToll)
		_ = g.Close()
		equal(t, "wait", time.Since(began), 0)
		if _, err := io.WriteString(g, "more"); !errors.Is(err, errToll) {
			t.Errorf("write: %v", err)
		}
		near.Close()
	})
}
