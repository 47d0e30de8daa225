package peerlink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

func TestConfigErrors(t *testing.T) {
	m := newMesh(t)
	socket := listenUDP(t)
	defer socket.Close()
	good := Config{Socket: socket, Identity: m.identity("a"), Addr: m.addr}
	for want, change := range map[string]func(*Config){
		"Socket is nil":                    func(c *Config) { c.Socket = nil },
		"Identity is nil":                  func(c *Config) { c.Identity = nil },
		"Addr is nil":                      func(c *Config) { c.Addr = nil },
		"AcceptFloor is -1s":               func(c *Config) { c.AcceptFloor = -time.Second },
		"MaxPeers is -1":                   func(c *Config) { c.MaxPeers = -1 },
		"must be less than IdleTimeout 5s": func(c *Config) { c.IdleTimeout, c.KeepAlive = 5*time.Second, 5*time.Second },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestRunOnceAndCallsAfterTheEnd(t *testing.T) {
	m := newMesh(t)
	a, stop := m.node("a", nil)
	if err := a.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("second Run: %v", err)
	}
	stop()
	addr := netip.MustParseAddrPort("127.0.0.1:9")
	_, hop := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	_, control := a.Control("b").RoundTrip(request(t, "GET", "http://f/", ""))
	_, raw := a.DialRaw(t.Context(), addr)
	_, _, accept := a.AcceptRaw(t.Context())
	for _, err := range []error{hop, control, raw, accept, a.Reach(t.Context(), addr)} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCallsWaitForRun(t *testing.T) {
	m := newMesh(t)
	m.node("b", hops(accepting))
	l, err := New(Config{Socket: listenUDP(t), Identity: m.identity("a"), Addr: m.addr, Logger: slog.New(slog.DiscardHandler), AcceptFloor: time.Minute, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.RoundTripHop("b", request(t, "GET", "http://f/", "").WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("before Run: %v", err)
	}
	got := make(chan error, 1)
	r := request(t, "GET", "http://f/", "")
	go func() {
		resp, err := l.RoundTripHop("b", r)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
		}
		got <- err
	}()
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	if err := <-got; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRunFailsWithTheSocket(t *testing.T) {
	m := newMesh(t)
	socket := listenUDP(t)
	l, err := New(Config{Socket: socket, Identity: m.identity("a"), Addr: m.addr, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(t.Context()) }()
	if err := l.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = socket.Close()
	if err := <-done; err == nil {
		t.Error("Run returned nil")
	}
}

// TestSimShutdown shows that what a handler wrote just before the end still arrives, that later
// requests are refused as draining, and that a handler that goes on is canceled.
func TestSimShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		finish, canceled := make(chan struct{}), make(chan struct{})
		serve := func(rw http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/last":
				rw.(Responder).Accept(perigee.Load{})
				<-finish
				_, _ = io.WriteString(rw, "last words")
			case "/stuck":
				stall(canceled)(rw, r)
			default:
				accepting(rw, r)
			}
		}
		configA, configB := w.config(nil), w.config(serve)
		if err := w.net.Start(); err != nil {
			t.Fatal(err)
		}
		defer w.net.Close()
		a, _ := w.mesh.node("a", configA)
		_, stopB := w.mesh.node("b", configB)
		stuck, err := a.RoundTripHop("b", request(t, "GET", "http://f/stuck", ""))
		if err != nil {
			t.Fatal(err)
		}
		last := make(chan string, 1)
		go func() {
			resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/last", ""))
			if err != nil {
				last <- err.Error()
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				last <- err.Error()
				return
			}
			last <- string(body)
		}()
		time.Sleep(time.Second)
		close(finish)
		go stopB()
		if code, _ := hopCode(t, a, "b"); code != perigee.RefusedDraining {
			t.Errorf("new request: %q", code)
		}
		if got := <-last; got != "last words" {
			t.Errorf("last answer: %q", got)
		}
		<-canceled
		var se *StreamError
		if _, err := io.ReadAll(stuck.Body); !errors.As(err, &se) || !strings.Contains(err.Error(), "the node is stopping") {
			t.Errorf("stuck request: %v", err)
		}
		stopB()
		start := time.Now()
		if code, _ := hopCode(t, a, "b"); code != perigee.RefusedUnreachable {
			t.Errorf("after the end: %q", code)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("unreachable after %v", took)
		}
	})
}

// TestSimRestart shows how a peer's restart is noticed at once if its reset key is kept.
func TestSimRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key := [32]byte{1, 2, 3}
		crashed := &crashable{PacketConn: nil}
		configA, configB := w.config(nil), w.config(accepting)
		if err := w.net.Start(); err != nil {
			t.Fatal(err)
		}
		defer w.net.Close()
		a, _ := w.mesh.node("a", configA)
		var shared net.PacketConn
		_, stopB := w.mesh.node("b", func(c *Config) {
			configB(c)
			shared = c.Socket
			crashed.PacketConn = c.Socket
			c.Socket, c.StatelessResetKey = crashed, &key
		})
		if code, _ := hopCode(t, a, "b"); code != "" {
			t.Fatal(code)
		}
		crashed.dead.Store(true) // its last packets get lost
		stopB()
		w.mesh.node("b", func(c *Config) {
			configB(c)
			c.Socket, c.StatelessResetKey = shared, &key
		})
		code, took := hopCode(t, a, "b")
		if code != perigee.RefusedSilent || took > 3*oneWay {
			t.Errorf("first request after the restart: %q after %v", code, took)
		}
		if code, _ := hopCode(t, a, "b"); code != "" {
			t.Errorf("second request after the restart: %q", code)
		}
	})
}

// crashable is a socket whose owner can die without a word. Close leaves the inner socket open.
type crashable struct {
	net.PacketConn
	dead atomic.Bool
}

func (c *crashable) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.dead.Load() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

func (c *crashable) Close() error { return nil }

// SetReadBuffer and SetWriteBuffer keep quic-go from logging that a wrapped socket has none.
func (c *crashable) SetReadBuffer(int) error  { return nil }
func (c *crashable) SetWriteBuffer(int) error { return nil }

func TestManyHandshakesMustProveTheirAddress(t *testing.T) {
	m := newMesh(t)
	reg := prometheus.NewRegistry()
	a, _ := m.node("a", nil)
	m.node("b", func(c *Config) {
		c.Hops = http.HandlerFunc(accepting)
		c.RetryAbove, c.Metrics = 1, NewMetrics(reg)
	})
	for range 4 {
		hopOK(t, a, "b", request(t, "GET", "http://f/", ""))
		a.Disconnect("b")
		eventually(t, "disconnect", func() bool { return !a.Connected("b") })
	}
	if metricSum(t, reg, "handshake_retries_total", "") == 0 {
		t.Error("no handshake was asked to retry")
	}
}

func TestWindowBudget(t *testing.T) {
	b := newWindowBudget(100)
	q1, q2 := new(quic.Conn), new(quic.Conn)
	if b.allow(q1, 1) {
		t.Error("grant to an unregistered connection")
	}
	b.open(q1)
	b.open(q2)
	if !b.allow(q1, 60) || b.allow(q2, 60) || !b.allow(q2, 40) || b.allow(q1, 1) {
		t.Error("budget is not kept")
	}
	b.close(q1)
	b.close(q1)
	if !b.allow(q2, 60) || b.allow(q2, 1) {
		t.Error("budget of a closed connection does not come back once")
	}
}

func TestSingleDial(t *testing.T) {
	m := newMesh(t)
	reg := prometheus.NewRegistry()
	a, _ := m.node("a", func(c *Config) { c.Metrics = NewMetrics(reg) })
	m.node("b", hops(accepting))
	errs := make(chan error)
	for range spreadAbove {
		r := request(t, "GET", "http://f/", "")
		go func() {
			resp, err := a.RoundTripHop("b", r)
			if err == nil {
				err = resp.Body.Close()
			}
			errs <- err
		}()
	}
	for range spreadAbove {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := metricSum(t, reg, "dials_total", ""); n != 1 {
		t.Errorf("%v dials for one burst", n)
	}
}

func TestImpatientRequestDoesNotStopTheDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.pair(t, accepting)
		ctx, cancel := context.WithTimeout(t.Context(), oneWay)
		defer cancel()
		if _, err := a.RoundTripHop("b", request(t, "GET", "http://f/", "").WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2 * oneWay)
		if code, took := hopCode(t, a, "b"); code != "" || took > 3*oneWay {
			t.Errorf("next hop: %q after %v", code, took)
		}
	})
}

func TestPoolsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.pair(t, accepting)
		for _, id := range []perigee.NodeID{"x", "y"} {
			if code, _ := hopCode(t, a, id); code != perigee.RefusedUnreachable {
				t.Error(code)
			}
		}
		time.Sleep(time.Minute)
		a.poolsMu.RLock()
		defer a.poolsMu.RUnlock()
		if len(a.pools) != 0 {
			t.Errorf("%d pools are kept", len(a.pools))
		}
	})
}
