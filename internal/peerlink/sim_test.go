package peerlink

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

// world is a simulated network, in fake time.
type world struct {
	way time.Duration // how long a packet travels; 0 = oneWay
	simnet.PerfectRouter
	cut  atomic.Bool // loses everything
	net  *simnet.Simnet
	mesh *mesh
	next byte
}

const oneWay = 40 * time.Millisecond

// SendPacket implements simnet.Router.
func (w *world) SendPacket(p simnet.Packet) error {
	if w.cut.Load() {
		return nil
	}
	return w.PerfectRouter.SendPacket(p)
}

func newWorld(t *testing.T) *world {
	w := &world{mesh: newMesh(t)}
	w.net = &simnet.Simnet{Router: w}
	return w
}

// config gives a node a place in the world and the timeouts that users get.
func (w *world) config(h http.HandlerFunc) func(*Config) {
	w.next++
	addr := &net.UDPAddr{IP: net.IPv4(10, 0, 0, w.next).To4(), Port: 7443}
	socket := w.net.NewEndpoint(addr, simnet.NodeBiDiLinkSettings{Latency: cmp.Or(w.way, oneWay)})
	return func(c *Config) {
		c.Socket, c.AcceptFloor, c.DialTimeout = socket, 0, 0
		if h != nil {
			c.Hops = h
		}
	}
}

func (w *world) pair(t *testing.T, h http.HandlerFunc) (a, b *Link) {
	configA, configB := w.config(nil), w.config(h)
	if err := w.net.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.net.Close() })
	b, _ = w.mesh.node("b", configB)
	a, _ = w.mesh.node("a", configA)
	return a, b
}

func accepting(w http.ResponseWriter, _ *http.Request) {
	w.(Responder).Accept(perigee.Load{Slots: 1})
	_, _ = io.WriteString(w, "hello")
}

func hopCode(t *testing.T, l *Link, id perigee.NodeID) (perigee.RefuseCode, time.Duration) {
	t.Helper()
	start := time.Now()
	resp, err := l.RoundTripHop(id, request(t, "GET", "http://f/", ""))
	took := time.Since(start)
	var he *perigee.HopError
	if errors.As(err, &he) {
		return he.Code, took
	}
	if err != nil {
		t.Fatalf("hop: %v", err)
	}
	readBody(t, resp)
	return "", time.Since(start)
}

// TestSimFirstAndNextHop shows what a hop costs over 40 ms each way: the first one a round trip for
// the handshake and one for the request, the next ones one.
func TestSimFirstAndNextHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.pair(t, accepting)
		for i, want := range []time.Duration{4 * oneWay, 2 * oneWay, 2 * oneWay} {
			// quic-go paces and delays acknowledgements, so a few milliseconds more are possible.
			if code, took := hopCode(t, a, "b"); code != "" || took < want || took > want+10*time.Millisecond {
				t.Errorf("hop %d took %v with outcome %q, want %v", i, took, code, want)
			}
		}
		if rtt, ok := a.RTT("b"); !ok || rtt < 2*oneWay || rtt > 3*oneWay {
			t.Errorf("rtt %v %v", rtt, ok)
		}
	})
}

// TestSimFarFirstHop: a first hop over more than the floor of the wait is answered, too. The handshake
// gives QUIC no sample of the round trip there.
func TestSimFarFirstHop(t *testing.T) {
	for _, way := range []time.Duration{110 * time.Millisecond, 160 * time.Millisecond, 300 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.way = way
			a, _ := w.pair(t, accepting)
			for i, want := range []time.Duration{4 * way, 2 * way} {
				if code, took := hopCode(t, a, "b"); code != "" || took < want || took > want+50*time.Millisecond {
					t.Errorf("%v each way: hop %d took %v with outcome %q, want %v", way, i, took, code, want)
				}
			}
		})
	}
}

func TestSimSilentWorkerIsNotSuspected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hold atomic.Bool
		a, _ := w.pair(t, func(rw http.ResponseWriter, r *http.Request) {
			if hold.Load() {
				<-r.Context().Done()
				return
			}
			accepting(rw, r)
		})
		if code, _ := hopCode(t, a, "b"); code != "" {
			t.Fatal(code)
		}
		hold.Store(true)
		if code, took := hopCode(t, a, "b"); code != perigee.RefusedSilent || took != 300*time.Millisecond {
			t.Errorf("got %q after %v, want silent after 300ms", code, took)
		}
		hold.Store(false)
		if code, took := hopCode(t, a, "b"); code != "" || took > 3*oneWay {
			t.Errorf("connection not kept: %q after %v", code, took)
		}
	})
}

func TestSimDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.pair(t, func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				rw.WriteHeader(200)
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			accepting(rw, r)
		})
		long, err := a.RoundTripHop("b", request(t, "GET", "http://f/long", ""))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.cut.Store(true)
		time.Sleep(time.Second)
		died := time.Now()
		if code, took := hopCode(t, a, "b"); code != perigee.RefusedSilent || took != 300*time.Millisecond {
			t.Errorf("got %q after %v, want silent after 300ms", code, took)
		}
		// The next request dials anew, and gives up after 3 round trips and a second.
		if code, took := hopCode(t, a, "b"); code != perigee.RefusedUnreachable || took > 1500*time.Millisecond {
			t.Errorf("got %q after %v, want unreachable within 1.5s", code, took)
		}
		// For a moment others are told so at once.
		if code, took := hopCode(t, a, "b"); code != perigee.RefusedUnreachable || took != 0 {
			t.Errorf("got %q after %v, want unreachable at once", code, took)
		}
		// What the dead peer had accepted fails long before the idle timeout.
		var se *StreamError
		if _, err := io.ReadAll(long.Body); !errors.As(err, &se) || se.Code != ResetLost {
			t.Errorf("accepted request: %v", err)
		}
		if took := time.Since(died); took > 3*time.Second {
			t.Errorf("accepted request hung for %v", took)
		}
		w.cut.Store(false)
		time.Sleep(maxBackoff)
		if code, _ := hopCode(t, a, "b"); code != "" {
			t.Errorf("no recovery: %q", code)
		}
	})
}

func TestSimDeadPeerWithoutNewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair(t, func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(200)
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // quiet, but in use: kept by keep-alives
		w.cut.Store(true)
		start := time.Now()
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("no error")
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("noticed after %v, want 20s at most", took)
		}
		synctest.Wait()
		eventually(t, "both sides forget", func() bool { return !a.Connected("b") && !b.Connected("a") })
	})
}

func TestSimUnusedConnectionsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair(t, accepting)
		if code, _ := hopCode(t, a, "b"); code != "" {
			t.Fatal(code)
		}
		time.Sleep(4 * time.Minute)
		if !a.Connected("b") {
			t.Error("closed before its time")
		}
		time.Sleep(2 * time.Minute)
		if a.Connected("b") || b.Connected("a") {
			t.Error("unused connection is kept")
		}
		if code, _ := hopCode(t, a, "b"); code != "" {
			t.Error(code)
		}
	})
}

func TestSimReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair(t, nil)
		start := time.Now()
		if err := a.Reach(t.Context(), b.Addr()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 2*oneWay {
			t.Errorf("took %v", took)
		}
		w.cut.Store(true)
		start = time.Now()
		if err := a.Reach(t.Context(), b.Addr()); err == nil || time.Since(start) != 3*time.Second {
			t.Errorf("unreachable: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := a.Reach(ctx, netip.MustParseAddrPort("10.0.0.9:1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("canceled: %v", err)
		}
	})
}

// TestSimJoinersLeave shows that a joiner can't hold its place by keeping a stream open.
func TestSimJoinersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		configB := w.config(nil)
		joiner := w.net.NewEndpoint(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 99).To4(), Port: 1}, simnet.NodeBiDiLinkSettings{Latency: oneWay})
		if err := w.net.Start(); err != nil {
			t.Fatal(err)
		}
		defer w.net.Close()
		b, _ := w.mesh.node("b", func(c *Config) {
			configB(c)
			c.Join = http.HandlerFunc(stallUntilDone)
		})
		c, err := DialOn(t.Context(), joiner, nil, b.Addr().String(), identity.JoinClientTLS(ALPNJoin, func(*x509.Certificate) error { return nil }))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := time.Now()
		resp, err := c.RoundTrip(request(t, "GET", "http://b/", ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("no error")
		}
		if took := time.Since(start); took > joinLife+10*time.Second {
			t.Errorf("stayed for %v", took)
		}
	})
}
