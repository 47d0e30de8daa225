package edgeproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/perigee-edge/perigee"
)

// withH3 has a proxy listen for HTTPS, HTTP/3 and plain HTTP on loopback.
func withH3(t testing.TB, ca *testCA) func(*Config) {
	tcp := withTLS(t, ca)
	return func(cfg *Config) {
		tcp(cfg)
		socket, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.OnHTTP3 = socket
	}
}

// client3 speaks HTTP/3 to a proxy, whatever the host.
func client3(t testing.TB, p *Proxy, ca *testCA) *http.Client {
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, DisableCompression: true,
		Dial: func(ctx context.Context, _ string, conf *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			conn, err := quic.DialAddrEarly(ctx, p.cfg.OnHTTP3.LocalAddr().String(), conf, qc)
			if err == nil {
				t.Cleanup(func() { _ = conn.CloseWithError(0, "") }) // the transport forgets one on which a request failed
			}
			return conn, err
		},
	}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// dial3 opens a connection without an HTTP client on it.
func dial3(t testing.TB, p *Proxy, ca *testCA) *quic.Conn {
	t.Helper()
	conn, err := quic.DialAddr(t.Context(), p.cfg.OnHTTP3.LocalAddr().String(),
		&tls.Config{RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

func TestHTTP3(t *testing.T) {
	ca, w := newCA(t), newWorld("fra-1")
	w.change(func(m *perigee.Manifest) { m.Routes = append(m.Routes, perigee.Route{Host: "second.example.com"}) })
	p := newProxy(t, w, "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s %d", r.Proto, r.Header.Get(headerProto), r.Header.Get(headerFor), len(b))
		w.Header().Set("X-Sum", "1")
	}), newHops(), withH3(t, ca))
	stop := run(t, p)

	tcp := client(t, p, ca, true)
	resp, _ := get(t, tcp, "https://"+testHost+"/")
	_, port, _ := net.SplitHostPort(p.cfg.OnHTTP3.LocalAddr().String())
	equal(t, "told over h2", resp.Header.Get("Alt-Svc"), fmt.Sprintf(`h3=":%s"; ma=86400`, port))
	resp, _ = get(t, tcp, "https://"+testHost+"/")
	equal(t, "told again", resp.Header.Get("Alt-Svc"), "")
	resp, _ = get(t, client(t, p, ca, false), "http://"+testHost+"/")
	equal(t, "told without TLS", resp.Header.Get("Alt-Svc"), "")

	c := client3(t, p, ca)
	for range 3 {
		r, _ := http.NewRequest("POST", "https://"+testHost+"/", bytes.NewReader(make([]byte, 3<<20)))
		resp, body := do(t, c, r)
		equal(t, "answer", body, fmt.Sprintf("HTTP/3.0 https 127.0.0.1 %d", 3<<20))
		equal(t, "told over h3", resp.Header.Get("Alt-Svc"), "")
		equal(t, "trailer", resp.Trailer.Get("X-Sum"), "1")
		receiptOf(t, resp.Header)
	}
	r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
	r.Host = "second.example.com"
	if resp, _ := do(t, c, r); resp.StatusCode != 421 {
		t.Errorf("another host than the connection's: %d", resp.StatusCode)
	}
	r, _ = http.NewRequest("GET", "https://"+testHost+"/", nil)
	r.Header.Set("X-Large", strings.Repeat("x", 2*maxHeader))
	if resp, err := c.Do(r); err == nil {
		resp.Body.Close()
		equal(t, "large head", resp.StatusCode, 431)
	}
	stop()
	if _, err := quic.DialAddr(t.Context(), p.cfg.OnHTTP3.LocalAddr().String(), &tls.Config{RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h3"}},
		&quic.Config{HandshakeIdleTimeout: 200 * time.Millisecond}); err == nil {
		t.Error("the port is open after Run")
	}
}

// TestHTTP3Strangers asks for names that no function has, and for the protocol of later years.
func TestHTTP3Strangers(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withH3(t, ca))
	run(t, p)
	for what, conf := range map[string]*tls.Config{
		"unknown name": {InsecureSkipVerify: true, ServerName: "other.example.com", NextProtos: []string{"h3"}},
		"no name":      {InsecureSkipVerify: true, NextProtos: []string{"h3"}},
		"no protocol":  {RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h9"}},
	} {
		if c, err := quic.DialAddr(t.Context(), p.cfg.OnHTTP3.LocalAddr().String(), conf, nil); err == nil {
			_ = c.CloseWithError(0, "")
			t.Errorf("%s: connected", what)
		}
	}
	equal(t, "issued", ca.signed.Load() <= 1, true)
}

// TestNo0RTT resumes a session with data in its first flight.
func TestNo0RTT(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withH3(t, ca))
	run(t, p)
	conf := &tls.Config{RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h3"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for range 2 {
		c, err := quic.DialAddrEarly(t.Context(), p.cfg.OnHTTP3.LocalAddr().String(), conf, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-c.HandshakeComplete()
		s, err := c.AcceptUniStream(t.Context()) // the ticket has come by now
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Read(make([]byte, 1))
		equal(t, "0-RTT", c.ConnectionState().Used0RTT, false)
		_ = c.CloseWithError(0, "")
	}
}

// TestHTTP3HeadTimeout sends half a head and waits, while the connection is alive.
func TestHTTP3HeadTimeout(t *testing.T) {
	ca := newCA(t)
	local := newLocal(greet)
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops(), withH3(t, ca))
	equal(t, "default", p.h3.headTime, headerTimeout)
	p.h3.headTime = 100 * time.Millisecond
	run(t, p)
	conn := dial3(t, p, ca)
	s, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte{1, 50, 0}); err != nil { // HEADERS, 50 bytes, the first of them
		t.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	var reset *quic.StreamError
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, &reset) || !reset.Remote || reset.ErrorCode != quic.StreamErrorCode(http3.ErrCodeRequestIncomplete) {
		t.Errorf("half a head: %v", err)
	}
	if conn.Context().Err() != nil {
		t.Error("the connection ended for one stream")
	}
	equal(t, "runs", local.runs.Load(), 0)
}

// TestHTTP3Drain drains while a request runs: it ends well, others are refused such that clients may
// repeat them, and the connection ends with it.
func TestHTTP3Drain(t *testing.T) {
	ca := newCA(t)
	running, release := make(chan struct{}, 1), make(chan struct{})
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
		running <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "done")
	}), newHops(), withH3(t, ca))
	run(t, p)
	conn := dial3(t, p, ca)
	cc := (&http3.Transport{}).NewClientConn(conn)
	got := make(chan string, 1)
	go func() {
		r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
		resp, err := cc.RoundTrip(r)
		if err != nil {
			got <- err.Error()
			return
		}
		b, _ := io.ReadAll(resp.Body)
		got <- string(b)
	}()
	<-running
	drained := make(chan error, 1)
	go func() { drained <- p.Drain(t.Context()) }()
	eventually(t, "draining", p.h3.isDraining)
	r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
	_, err := cc.RoundTrip(r)
	var refused *http3.Error
	if !errors.As(err, &refused) || refused.ErrorCode != http3.ErrCodeRequestRejected {
		t.Errorf("a request to a draining node: %v", err)
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a request under way: %v", err)
	default:
	}
	close(release)
	equal(t, "the one under way", <-got, "done")
	if err := <-drained; err != nil {
		t.Error(err)
	}
	<-conn.Context().Done()
	var end *quic.ApplicationError
	if !errors.As(context.Cause(conn.Context()), &end) || end.ErrorCode != quic.ApplicationErrorCode(http3.ErrCodeNoError) {
		t.Errorf("the connection ended with %v", context.Cause(conn.Context()))
	}
}

// TestHTTP3Slots opens more requests than may run on one connection, by resetting those before.
func TestHTTP3Slots(t *testing.T) {
	ca := newCA(t)
	var most, now atomic.Int64
	release := make(chan struct{})
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		defer now.Add(-1)
		for err := error(nil); err == nil; _, err = io.WriteString(w, "more") {
			time.Sleep(time.Millisecond)
		}
		<-release // the stream is over for QUIC and makes room for another, but the guest works on
	}), newHops(), withH3(t, ca))
	run(t, p)
	defer close(release)
	conn := dial3(t, p, ca)
	cc := (&http3.Transport{}).NewClientConn(conn)
	rejected := 0
	for range 3 * maxStreams {
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+"/", nil)
		before := now.Load()
		done := make(chan error, 1)
		go func() { _, err := cc.RoundTrip(r); done <- err }()
		deadline := time.Now().Add(5 * time.Second)
	wait:
		for now.Load() == before {
			select {
			case err := <-done:
				var e *http3.Error
				if !errors.As(err, &e) || e.ErrorCode != http3.ErrCodeRequestRejected {
					t.Fatalf("a request beyond the slots: %v", err)
				}
				rejected++
				done <- err
				break wait
			default:
			}
			if time.Now().After(deadline) {
				t.Fatal("a request neither runs nor is refused")
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		<-done
	}
	if most.Load() != maxStreams || rejected != 2*maxStreams {
		t.Errorf("%d requests ran at once, want %d; %d were refused", most.Load(), maxStreams, rejected)
	}
}

// TestRetryAboveARate makes handshakes beyond the rate.
func TestRetryAboveARate(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withH3(t, ca))
	asked := 0
	for range 2 * handshakeRate {
		if p.h3.transport.VerifySourceAddress(nil) {
			asked++
		}
	}
	if asked < handshakeRate*8/10 || asked > handshakeRate {
		t.Errorf("%d of %d handshakes must prove their address", asked, 2*handshakeRate)
	}
	run(t, p)
	dial3(t, p, ca) // proves it
}
