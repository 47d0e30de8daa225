package handover

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// packets are one of each kind, with a mark in the connection id.
func packets(m Mark) map[string][]byte {
	return map[string][]byte{
		"short": append(append([]byte{0x40}, m[:]...), "rest of the packet"...),
		"long":  append(append([]byte{0xc0, 0, 0, 0, 1, 8}, m[:]...), "rest of the packet"...),
	}
}

// TestSteer sends packets of two processes to a port with two sockets.
func TestSteer(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::]:0"} {
		first, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		old, young := NewMark(), NewMark()
		refused := func(when string) {
			t.Helper()
			share := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return reuse(c, 1) }} // as another node of the same user might
			if c, err := share.ListenPacket(t.Context(), "udp", first.LocalAddr().String()); err == nil {
				c.Close()
				t.Errorf("%s: a stranger got the port", when)
			}
		}
		refused("at first")
		for range 2 { // the second is an upgrade after the upgrade
			second, err := Sibling(first, Steering{Mark: young})
			if err != nil {
				t.Fatal(err)
			}
			check := func(when string, want map[string]net.PacketConn) {
				t.Helper()
				for who, m := range map[string]Mark{"old": old, "young": young, "nobody": {1, 2, 3, 4}} {
					for kind, b := range packets(m) {
						arrives(t, when+": "+who+", "+kind, b, first, second, want[who])
					}
				}
				arrives(t, when+": membership", []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, first, second, second)
				arrives(t, when+": too short", []byte{0xc0, 1}, first, second, first)
			}
			check("before", map[string]net.PacketConn{"old": first, "young": second, "nobody": first})
			if err := Steer(first, Steering{Mark: old, MarkedFirst: true}); err != nil {
				t.Fatal(err)
			}
			check("after", map[string]net.PacketConn{"old": first, "young": second, "nobody": second})
			first.Close()
			first, old, young = second, young, NewMark()
			if err := Alone(first); err != nil {
				t.Fatal(err)
			}
			for who, m := range map[string]Mark{"old": old, "young": young} {
				for kind, b := range packets(m) {
					arrives(t, "alone: "+who+", "+kind, b, nil, first, first)
				}
			}
			refused("with one socket again")
		}
		first.Close()
	}
}

// arrives sends a packet and looks where it comes.
func arrives(t *testing.T, what string, b []byte, first, second, want net.PacketConn) {
	t.Helper()
	_, port, _ := net.SplitHostPort(second.LocalAddr().String())
	c, err := net.Dial("udp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	_ = want.SetReadDeadline(time.Now().Add(2 * time.Second))
	if n, _, err := want.ReadFrom(got); err != nil || string(got[:n]) != string(b) {
		t.Errorf("%s: %q, %v", what, got[:n], err)
	}
	for _, other := range []net.PacketConn{first, second} {
		if other == nil || other == want {
			continue
		}
		_ = other.SetReadDeadline(time.Now())
		if _, _, err := other.ReadFrom(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s came to the other socket: %v", what, err)
		}
	}
}
