package edgeproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/perigee-edge/perigee"
)

// frame is one WebSocket frame, of a client if masked.
func frame(op byte, payload string, masked bool) []byte {
	b := []byte{0x80 | op, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	}
	return append(b, payload...)
}

const opText, opClose = 1, 8

// readFrame reads a frame.
func readFrame(r io.Reader) (op byte, payload string, err error) {
	var f frames
	for f.have < headSize(f.head[:f.have]) {
		if _, err := io.ReadFull(r, f.head[f.have:f.have+1]); err != nil {
			return 0, "", err
		}
		f.have++
	}
	b := make([]byte, payloadSize(f.head[:]))
	_, err = io.ReadFull(r, b)
	return f.head[0] & 0xf, string(b), err
}

// wsWatch is when a test's WebSocket ends at the latest, so that one which waits for what never comes fails.
const wsWatch = 15 * time.Second

// echoWS is a function whose origin speaks WebSocket: it sends back what it gets, until its time is over, and closes when it
// is told.
func echoWS(ctx context.Context, w http.ResponseWriter, r *http.Request) (Result, error) {
	if r.Method != http.MethodGet || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "" || r.Header.Get("Sec-Websocket-Key") != "" {
		http.Error(w, fmt.Sprint(r.Method, r.Header), http.StatusUpgradeRequired)
		return Result{}, nil
	}
	w.Header().Set("Sec-WebSocket-Protocol", r.Header.Get("Sec-WebSocket-Protocol"))
	w.Header().Set("Sec-WebSocket-Accept", "not for the client")
	w.WriteHeader(http.StatusSwitchingProtocols)
	for {
		op, payload, err := readFrame(r.Body)
		if err != nil || ctx.Err() != nil {
			return Result{}, nil
		}
		if _, err := w.Write(frame(op, payload, false)); err != nil || op == opClose {
			return Result{}, nil
		}
	}
}

// openWS opens a WebSocket. It returns the bytes both ways and the head of the response.
func openWS(t *testing.T, p *Proxy, ca *testCA, version int) (io.ReadWriteCloser, *http.Response) {
	t.Helper()
	if version == 1 {
		conn, in := dial1(t, p, ca)
		fmt.Fprintf(conn, "GET /chat?x=1 HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n", testHost)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == 101 {
			equal(t, "accept", resp.Header.Get("Sec-Websocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") // of RFC 6455
		}
		return struct {
			io.Reader
			io.WriteCloser
		}{in, conn}, resp
	}
	pr, pw := io.Pipe()
	r, _ := http.NewRequestWithContext(t.Context(), "CONNECT", "https://"+testHost+"/chat?x=1", pr)
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Protocol", "chat")
	cl := client3(t, p, ca)
	if version == 2 {
		cl = &http.Client{Transport: extended(t, p, ca)}
		r.Header[":protocol"] = []string{"websocket"}
	} else {
		r.Proto = "websocket"
	}
	cl.Timeout = 0
	resp, err := cl.Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	end := func() { pw.Close(); resp.Body.Close() }
	watch := time.AfterFunc(wsWatch, end)
	t.Cleanup(func() { watch.Stop(); end() })
	return struct {
		io.Reader
		io.WriteCloser
	}{resp.Body, pw}, resp
}

// extended speaks HTTP/2 with extended CONNECT, which the client of net/http does not.
func extended(t *testing.T, p *Proxy, ca *testCA) http.RoundTripper {
	//lint:ignore SA1019 net/http's client refuses the field :protocol
	tr := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, DialTLSContext: func(ctx context.Context, _, _ string, conf *tls.Config) (net.Conn, error) {
		addr, _ := p.Addrs()
		return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", addr.String())
	}}
	t.Cleanup(tr.CloseIdleConnections) //lint:ignore SA1019 of the same
	return tr
}

// everyWebSocket runs a test over HTTP/1, 2 and 3, here and over a hop.
func everyWebSocket(t *testing.T, test func(t *testing.T, version int, how way)) {
	for version := 1; version <= 3; version++ {
		for _, how := range []way{here, quicHop} {
			if !t.Run(fmt.Sprintf("h%d,%s", version, how), func(t *testing.T) { test(t, version, how) }) {
				return // the others would wait as long
			}
		}
	}
}

func wsLocal() *fakeLocal {
	local := newLocal(nil)
	local.handler = echoWS
	return local
}

// TestWebSocket: bytes pass both ways at once, beyond the function's time, and the end of one side reaches
// the other.
func TestWebSocket(t *testing.T) {
	t.Parallel() // it waits
	everyWebSocket(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		p := serving(t, ca, how, wsLocal(), withH3(t, ca))
		ws, resp := openWS(t, p, ca, version)
		equal(t, "status", resp.StatusCode, map[bool]int{true: 101, false: 200}[version == 1])
		equal(t, "subprotocol", resp.Header.Get("Sec-WebSocket-Protocol"), "chat")
		receiptOf(t, resp.Header)
		for _, n := range []int{0, 5, 125, 126, 70_000, 300_000} {
			text := strings.Repeat("x", n)
			sent := make(chan error, 1)
			go func() { _, err := ws.Write(frame(opText, text, true)); sent <- err }()
			if op, got, err := readFrame(ws); err != nil || op != opText || got != text {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
		equal(t, "open", counter(t, p, "perigee_edgeproxy_open_websockets", ""), 1)
		if _, err := ws.Write(frame(opClose, "\x03\xe8", true)); err != nil {
			t.Fatal(err)
		}
		if op, got, err := readFrame(ws); err != nil || op != opClose || got != "\x03\xe8" {
			t.Fatalf("%d %q, %v", op, got, err)
		}
		if _, err := ws.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the origin's end: %v", err)
		}
		eventually(t, "the request is over", func() bool { return counter(t, p, "perigee_edgeproxy_open_websockets", "") == 0 })
	})
}

// TestWebSocketOutlivesTheTimeout has handshakes within the function's time, and talk after it; a handshake
// that is late is none.
func TestWebSocketOutlivesTheTimeout(t *testing.T) {
	t.Parallel() // it waits
	const limit = 2 * time.Second
	for _, how := range []way{here, quicHop} {
		t.Run(string(how), func(t *testing.T) {
			t.Parallel()
			ca := newCA(t)
			var late atomic.Bool
			local := newLocal(nil)
			local.handler = func(ctx context.Context, w http.ResponseWriter, r *http.Request) (Result, error) {
				if late.Load() {
					<-ctx.Done()
					return Result{}, context.Cause(ctx)
				}
				return echoWS(ctx, w, r)
			}
			w := newWorld(entryID+":absent", workerID)
			if how == here {
				w = newWorld(entryID)
			}
			w.change(func(m *perigee.Manifest) { m.Limits.Timeout = perigee.Duration(limit) })
			p, _ := servingIn(t, w, ca, how, local, withH3(t, ca))
			var open [4]io.ReadWriteCloser
			for version := 1; version <= 3; version++ {
				open[version], _ = openWS(t, p, ca, version)
			}
			<-time.After(limit + 200*time.Millisecond)
			for version := 1; version <= 3; version++ {
				if _, err := open[version].Write(frame(opText, "still here", true)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := readFrame(open[version]); got != "still here" {
					t.Errorf("h%d: %q, %v", version, got, err)
				}
			}
			late.Store(true)
			_, resp := openWS(t, p, ca, 1)
			equal(t, "late", resp.StatusCode, 504)
		})
	}
}

// TestWebSocketRefusals: whoever does not change the protocol answers as usual, but for successes, which
// would say over HTTP/2 and 3 that it has changed.
func TestWebSocketRefusals(t *testing.T) {
	everyWebSocket(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		var answer atomic.Int64
		p := serving(t, ca, how, newLocal(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(int(answer.Load()))
			_, _ = io.WriteString(w, "no")
		}), withH3(t, ca))
		for _, status := range []int{200, 403, 426} {
			answer.Store(int64(status))
			want := status
			if status == 200 && version > 1 {
				want = 501
			}
			ws, resp := openWS(t, p, ca, version)
			equal(t, "status", resp.StatusCode, want)
			if status == 403 {
				b, _ := io.ReadAll(io.LimitReader(resp.Body, 2))
				equal(t, "body", string(b), "no")
			}
			ws.Close()
		}
	})
}

// TestWebSocketDrain: a drain says 1001 between two frames, at the gateway and at the node that runs the
// function, passes the client's answer on, and ends.
func TestWebSocketDrain(t *testing.T) {
	everyWebSocket(t, func(t *testing.T, version int, how way) {
		ca, step := newCA(t), make(chan struct{})
		told := make(chan string, 1)
		local := newLocal(nil)
		local.handler = func(_ context.Context, w http.ResponseWriter, r *http.Request) (Result, error) {
			w.WriteHeader(http.StatusSwitchingProtocols)
			f := frame(opText, "whole", false)
			_, _ = w.Write(f[:4])
			<-step
			_, _ = w.Write(append(f[4:], frame(opText, "too late", false)...))
			_, payload, err := readFrame(r.Body)
			told <- fmt.Sprintf("%q %v", payload, err)
			return Result{}, nil
		}
		entry, worker := servingPair(t, ca, how, local, withH3(t, ca))
		t.Cleanup(func() { close(step) }) // so that one which fails ends
		for _, p := range []*Proxy{worker, entry} {
			if p == nil {
				continue
			}
			ws, _ := openWS(t, entry, ca, version)
			var two [4]byte
			if _, err := io.ReadFull(ws, two[:]); err != nil {
				t.Fatal(err)
			}
			drained := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				drained <- p.Drain(ctx)
			}()
			eventually(t, "the tunnel is to end", func() bool {
				p.tunnels.mu.Lock()
				defer p.tunnels.mu.Unlock()
				for tu := range p.tunnels.open {
					tu.mu.Lock()
					defer tu.mu.Unlock()
					return tu.away
				}
				return false
			})
			step <- struct{}{}
			_, rest, err := readFrame(io.MultiReader(bytes.NewReader(two[:]), ws))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "frame under way", rest, "whole")
			op, payload, err := readFrame(ws)
			if err != nil || op != opClose || payload != "\x03\xe9" {
				t.Fatalf("h%d %s: %d %q, %v", version, how, op, payload, err)
			}
			if _, err := ws.Write(frame(opClose, payload, true)); err != nil {
				t.Fatal(err)
			}
			equal(t, "the origin hears", <-told, `"\x03\xe9" <nil>`)
			if err := <-drained; err != nil {
				t.Error(err)
			}
			if p == worker {
				break // a drained worker takes nothing for the entry's turn
			}
		}
	})
}

// TestWebSocketEnds: a client that says nothing is told to go, and cut off if it does not.
func TestWebSocketEnds(t *testing.T) {
	t.Parallel() // it waits
	for version := 1; version <= 3; version++ {
		t.Run(fmt.Sprintf("h%d", version), func(t *testing.T) {
			t.Parallel()
			ca := newCA(t)
			p := serving(t, ca, quicHop, wsLocal(), withH3(t, ca), func(c *Config) { c.IdleTimeout = 500 * time.Millisecond })
			ws, _ := openWS(t, p, ca, version)
			began := time.Now()
			if op, payload, err := readFrame(ws); op != opClose || payload != "\x03\xe9" {
				t.Errorf("idle: %d %q, %v", op, payload, err)
			}
			if n, err := ws.Read(make([]byte, 1)); err == nil || time.Since(began) > wsWatch-time.Second {
				t.Errorf("it stays open for %v: %d, %v", time.Since(began), n, err)
			}
		})
	}
}

// TestFrames cuts a stream of frames everywhere.
func TestFrames(t *testing.T) {
	var stream []byte
	ends := map[int]bool{0: true}
	for _, n := range []int{0, 3, 125, 126, 200, 1 << 16} {
		for _, masked := range []bool{false, true} {
			stream = append(stream, frame(opText, strings.Repeat("x", n), masked)...)
			ends[len(stream)] = true
		}
	}
	for _, step := range []int{1, 2, 3, 7, 1000, len(stream)} {
		var f frames
		for at := 0; at < len(stream); {
			part := stream[at:min(len(stream), at+step)]
			n := f.pass(part)
			if at += n; n == 0 || n < len(part) && !ends[at] || f.between() != ends[at] {
				t.Fatalf("step %d: stops after %d bytes, between frames: %v", step, at, f.between())
			}
		}
	}
}

// TestUnknownProtocol asks for another protocol than WebSocket by extended CONNECT.
func TestUnknownProtocol(t *testing.T) {
	ca := newCA(t)
	p := serving(t, ca, here, newLocal(greet), withH3(t, ca))
	for version, cl := range map[int]http.RoundTripper{2: extended(t, p, ca), 3: client3(t, p, ca).Transport} {
		r, _ := http.NewRequest("CONNECT", "https://"+testHost+"/", http.NoBody)
		if version == 2 {
			r.Header[":protocol"] = []string{"connect-udp"}
		} else {
			r.Proto = "connect-udp"
		}
		resp, err := cl.RoundTrip(r)
		if err != nil {
			t.Fatal(version, err)
		}
		resp.Body.Close()
		equal(t, "status", resp.StatusCode, 501)
	}
}
