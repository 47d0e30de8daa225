package edgeproxy

import (
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestTollOfHonestClients sends a body a byte at a time, to a guest that reads it, and asks for a long answer in
// parts, whose windows it moves for each: both are far more frames than a client may send for nothing.
func TestTollOfHonestClients(t *testing.T) {
	const parts = 2 * tollBurst
	ca, got := newCA(t), make(chan struct{})
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			for range parts / tollFrame {
				_, _ = io.WriteString(w, "part")
			}
			return
		}
		for {
			if _, err := r.Body.Read(make([]byte, 1)); err != nil {
				return
			}
			select {
			case got <- struct{}{}:
			case <-r.Context().Done():
				return
			}
		}
	}), newHops(), withTLS(t, ca), quiet)
	run(t, p)

	c := dialH2(t, p, ca, true)
	_ = c.conn.SetDeadline(time.Now().Add(5 * time.Minute)) // thousands of round trips, on whatever machine
	post := append([]byte{0x83}, c.head[1:]...)             // of the static table, as GET is
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: post, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for i := range parts {
		if err := c.WriteData(1, false, []byte("a")); err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		select {
		case <-got:
		case <-c.ended:
			t.Fatalf("the connection ended after %d parts of a body", i)
		case <-time.After(20 * time.Second):
			t.Fatalf("part %d of a body was not read", i)
		}
	}

	c = dialH2(t, p, ca, false)
	_ = c.conn.SetDeadline(time.Now().Add(5 * time.Minute))
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head, EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < parts/tollFrame; {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("after %d parts: %v", n, err)
		}
		if f.Header().Type != http2.FrameData {
			continue
		}
		for range 2 {
			if err := c.WriteWindowUpdate(f.Header().StreamID&uint32(n%2), 4); err != nil {
				t.Fatalf("after %d parts: %v", n, err)
			}
		}
		n++
	}
}

// TestTollComesBack waits: the rate is for those that ask little and ping now and then.
func TestTollComesBack(t *testing.T) {
	var l toll
	l.init(time.Now().Add(-2 * time.Second))
	equal(t, "all at once", l.pay(tollBurst), true)
	equal(t, "what came back", l.pay(tollRate), true)
	equal(t, "more", l.pay(2*tollRate), false)
	for range 100 {
		l.refund(tollBurst)
	}
	equal(t, "a hoard", l.left.Load() > tollMost+tollBurst, false)
	(*toll)(nil).refund(1)
}

// TestFrameWalk reads frames in pieces of every size.
func TestFrameWalk(t *testing.T) {
	stream := "\x00\x00\x02\x00\x01\x00\x00\x00\x01ab" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"
	for size := 1; size <= len(stream); size++ {
		var w frameWalk
		var kinds []http2.FrameType
		for at := 0; at < len(stream); at += size {
			w.walk([]byte(stream[at:min(len(stream), at+size)]), func(f http2.FrameHeader) { kinds = append(kinds, f.Type) })
		}
		if len(kinds) != 3 || kinds[0] != http2.FrameData || kinds[1] != http2.FrameSettings || kinds[2] != http2.FramePing {
			t.Errorf("in pieces of %d: %v", size, kinds)
		}
	}
}
