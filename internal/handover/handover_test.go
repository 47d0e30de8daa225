package handover

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain is the successor, too: the test starts its own program.
func TestMain(m *testing.M) {
	p, err := Inherit()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if p == nil {
		os.Exit(m.Run())
	}
	if err := succeed(p, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
}

// succeed answers one connection on the listener, and ends after its predecessor.
func succeed(p *Predecessor, how string) error {
	if how == "unprepared" {
		return nil
	}
	if err := p.AwaitGo(); err != nil {
		return err
	}
	if how == "unready" {
		return nil
	}
	l := p.Listener("web")
	if l == nil || p.Listener("web") != nil || p.PacketConn("none") != nil {
		return fmt.Errorf("listener: %v", l)
	}
	if err := p.Ready(); err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	fmt.Fprintf(c, "%x %x %s %s", p.Mark, p.Own, p.Trouble, os.Getenv(envFD))
	p.AwaitEnd(context.Background())
	return c.Close()
}

func start(t *testing.T, how string) (*Successor, net.Listener, Offer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	offer := Offer{Mark: NewMark(), Own: NewMark(), Trouble: "none yet"}
	s, err := Start(os.Args[0], []string{how}, offer, map[string]any{"web": l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s, l, offer
}

// TestHandover passes a listener on, and closes its own: clients notice nothing.
func TestHandover(t *testing.T) {
	s, l, offer := start(t, "well")
	if err := s.AwaitPrepared(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.Go(); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitReady(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 100)
	n, _ := c.Read(b)
	if want := fmt.Sprintf("%x %x none yet ", offer.Mark, offer.Own); string(b[:n]) != want {
		t.Errorf("got %q, want %q", b[:n], want)
	}
	s.line.conn.Close() // as if this process had ended
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	<-s.done
	if s.err != nil {
		t.Error(s.err)
	}
}

// TestFailures has successors end too early.
func TestFailures(t *testing.T) {
	s, _, _ := start(t, "unprepared")
	if err := s.AwaitPrepared(10 * time.Second); err == nil || !strings.Contains(err.Error(), "the new process ended") {
		t.Errorf("unprepared: %v", err)
	}
	s, l, _ := start(t, "unready")
	if err := s.AwaitPrepared(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.Go(); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitReady(10 * time.Second); err == nil || !strings.Contains(err.Error(), "the new process ended") {
		t.Errorf("unready: %v", err)
	}
	go func() {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
		}
	}()
	if c, err := l.Accept(); err != nil { // this process goes on
		t.Error(err)
	} else {
		c.Close()
	}
	s, _, _ = start(t, "well")
	if err := s.AwaitPrepared(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitReady(time.Millisecond); err == nil || !strings.Contains(err.Error(), "within 1ms") {
		t.Errorf("slow: %v", err)
	}
	if _, err := Start("/does/not/exist", nil, Offer{}, nil); err == nil {
		t.Error("started nothing")
	}
	if _, err := Start(os.Args[0], []string{"well"}, Offer{}, map[string]any{"odd": 1}); err == nil || !strings.Contains(err.Error(), "no descriptor") {
		t.Errorf("odd socket: %v", err)
	}
}
