package edgeproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// watchedPackets is a socket that tells of what comes.
type watchedPackets struct {
	net.PacketConn
	came chan byte // the first byte of the first packet
}

func (w watchedPackets) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := w.PacketConn.ReadFrom(p)
	if n > 0 {
		select {
		case w.came <- p[0]:
		default:
		}
	}
	return n, from, err
}

// isRetry reports what a packet of QUIC version 1 is by its first byte (RFC 9000, section 17.2).
func isRetry(first byte) bool { return first&0xf0 == 0xf0 }

// shake makes a handshake from an address, as far as check.
func shake(t *testing.T, ctx context.Context, p *Proxy, ca *testCA, from string, came chan byte, check func(tls.ConnectionState) error) error {
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)})
	if err != nil {
		return err
	}
	t.Cleanup(func() { socket.Close() })
	conn, err := quic.Dial(ctx, watchedPackets{socket, came}, p.cfg.OnHTTP3.LocalAddr(),
		&tls.Config{RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h3"}, VerifyConnection: check}, nil)
	if err == nil {
		t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	}
	return err
}

// halfShake begins a handshake and does not go on with it before the end of the test. It returns the first byte of the answer.
func halfShake(t *testing.T, p *Proxy, ca *testCA, from string) byte {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, came := make(chan error, 1), make(chan byte, 1)
	go func() {
		ended <- shake(t, ctx, p, ca, from, came, func(tls.ConnectionState) error { <-ctx.Done(); return ctx.Err() })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return <-came
}

// TestUnprovenHandshakes begins handshakes and goes on with none. Beyond the bound their senders have to prove their addresses, and
// who does is served.
func TestUnprovenHandshakes(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withH3(t, ca))
	p.h3.shakes.unproven, p.h3.shakeTime = newCensus(3, 2), time.Minute
	run(t, p)
	for _, c := range []struct {
		from  string
		retry bool
	}{{"127.0.0.1", false}, {"127.0.0.1", false}, {"127.0.0.1", true}, {"127.0.0.2", false}, {"127.0.0.3", true}} {
		equal(t, c.from+" has to prove its address", isRetry(halfShake(t, p, ca, c.from)), c.retry)
	}
	if err := shake(t, t.Context(), p, ca, "127.0.0.1", nil, nil); err != nil {
		t.Errorf("a client that proves its address: %v", err)
	}
}

// TestProvenHandshakes has clients prove their addresses and then say no more: each has a bound of handshakes that are under way, and
// all together. Those that are done count no more.
func TestProvenHandshakes(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withH3(t, ca))
	p.h3.shakes, p.h3.shakeTime = &handshakes{newCensus(0, 0), newCensus(2, 1)}, time.Minute // all have to prove theirs
	run(t, p)
	room := func(from string) bool { return p.h3.shakes.proven.room(clientOf(netip.MustParseAddr(from))) }
	refused := func(from string) bool {
		t.Helper()
		err := shake(t, t.Context(), p, ca, from, nil, nil)
		var e *quic.TransportError
		if err != nil && !(errors.As(err, &e) && e.ErrorCode == quic.ConnectionRefused) {
			t.Errorf("a handshake from %s: %v", from, err)
		}
		return err != nil
	}
	for range 3 {
		equal(t, "refused, one after the other", refused("127.0.0.2"), false)
		eventually(t, "its handshake counts no more", func() bool { return room("127.0.0.2") })
	}
	halfShake(t, p, ca, "127.0.0.1")
	eventually(t, "one is under way", func() bool { return !room("127.0.0.1") })
	equal(t, "refused, of the same client", refused("127.0.0.1"), true)
	equal(t, "refused, of another", refused("127.0.0.2"), false)
	eventually(t, "its handshake counts no more", func() bool { return room("127.0.0.2") })
	halfShake(t, p, ca, "127.0.0.2")
	eventually(t, "two are under way", func() bool { return !room("127.0.0.3") })
	equal(t, "refused, of a third", refused("127.0.0.3"), true)
	if n := counter(t, p, "perigee_edgeproxy_refused_connections_total", ""); n < 2 { // the first flight may be two packets
		t.Errorf("%v refusals were counted, want 2", n)
	}
}

// TestHandshakesEnd counts a handshake no more when its context has ended.
func TestHandshakesEnd(t *testing.T) {
	h := newHandshakes()
	client := &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	for _, proven := range []bool{false, true} {
		client.AddrVerified = proven
		ctx, cancel := context.WithCancel(t.Context())
		most := unprovenPerHost
		if proven {
			most = handshakePerHost
		}
		for range most {
			if _, err := h.begin(ctx, client); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.begin(ctx, client); err == nil {
			t.Errorf("one too many is taken, proven %v", proven)
		}
		cancel()
		eventually(t, "none is under way", func() bool { return h.unproven.empty() && h.proven.empty() })
	}
}
