package edgeproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/peerlink"
)

// A way is how a request gets to its guest.
type way string

const (
	here     way = "here"
	fakeHop  way = "hop"
	quicHop  way = "quic"
	entryID      = "wdc-1"
	workerID     = "fra-1"
)

// serving has an entry node with real listeners whose requests get to a guest in the given way, so
// that every test of a stream is made in each.
func serving(t *testing.T, ca *testCA, how way, local *fakeLocal, edits ...func(*Config)) *Proxy {
	t.Helper()
	entry, _ := servingPair(t, ca, how, local, edits...)
	return entry
}

// servingPair is serving that returns the node that runs the guest too; nil = the entry itself.
func servingPair(t *testing.T, ca *testCA, how way, local *fakeLocal, edits ...func(*Config)) (entry, worker *Proxy) {
	t.Helper()
	w := newWorld(entryID)
	if how != here {
		w = newWorld(entryID+":absent", workerID)
	}
	return servingIn(t, w, ca, how, local, edits...)
}

// servingIn is servingPair in a world that fits.
func servingIn(t *testing.T, w *world, ca *testCA, how way, local *fakeLocal, edits ...func(*Config)) (entry, worker *Proxy) {
	t.Helper()
	edits = append([]func(*Config){withH3(t, ca)}, edits...)
	if how == here {
		p := newProxy(t, w, entryID, local, newHops(), edits...)
		run(t, p)
		return p, nil
	}
	var hops Hops
	if how == fakeHop {
		mesh := newMesh()
		t.Cleanup(mesh.wg.Wait)
		worker = newProxy(t, w, workerID, local, mesh)
		mesh.add(workerID, worker)
		hops = mesh
	} else {
		worker = newProxy(t, w, workerID, local, newHops(), func(c *Config) { c.Peer = peerOf })
		hops = newQUIC(t, []perigee.NodeID{entryID, workerID}, worker.HopHandler())
		edits = append(edits, func(c *Config) { c.LoadOf = peerlink.LoadOf })
	}
	p := newProxy(t, w, entryID, failing(&perigee.HopError{Code: perigee.RefusedNotHere}), hops, edits...)
	run(t, p)
	return p, worker
}

// everyWay runs a test over HTTP/1, 2 and 3, here and over a hop.
func everyWay(t *testing.T, test func(t *testing.T, version int, how way)) {
	for version := 1; version <= 3; version++ {
		for _, how := range []way{here, fakeHop, quicHop} {
			t.Run(fmt.Sprintf("h%d,%s", version, how), func(t *testing.T) { test(t, version, how) })
		}
	}
}

// clientSpeaking speaks a version of HTTP.
func clientSpeaking(t *testing.T, p *Proxy, ca *testCA, version int) *http.Client {
	if version == 3 {
		return client3(t, p, ca)
	}
	return client(t, p, ca, version == 2)
}

// TestEchoStreams sends a line, reads it back, sends the next: neither direction may be held back.
func TestEchoStreams(t *testing.T) {
	everyWay(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		local := newLocal(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Count")
			in, n := bufio.NewScanner(r.Body), 0
			for in.Scan() {
				n++
				if _, err := fmt.Fprintln(w, in.Text()); err != nil {
					return
				}
			}
			w.Header().Set("X-Count", fmt.Sprint(n))
		})
		p := serving(t, ca, how, local)
		pr, pw := io.Pipe()
		r, _ := http.NewRequest("POST", "https://"+testHost+"/", pr)
		first := make(chan error, 1)
		go func() { _, err := io.WriteString(pw, "line 0\n"); first <- err }()
		resp, err := clientSpeaking(t, p, ca, version).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		out := bufio.NewScanner(resp.Body)
		for i := range 20 {
			if !out.Scan() || out.Text() != fmt.Sprintf("line %d", i) {
				t.Fatalf("line %d: %q, %v", i, out.Text(), out.Err())
			}
			if _, err := fmt.Fprintf(pw, "line %d\n", i+1); err != nil {
				t.Fatal(err)
			}
		}
		pw.Close()
		for out.Scan() {
		}
		equal(t, "trailer", resp.Trailer.Get("X-Count"), "21")
		if out.Err() != nil {
			t.Error(out.Err())
		}
	})
}

// TestEventsAreNotHeldBack has a guest that sends its head, then waits, then sends an event.
func TestEventsAreNotHeldBack(t *testing.T) {
	everyWay(t, func(t *testing.T, version int, how way) {
		ca, step := newCA(t), make(chan struct{})
		local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for i := range 3 {
				<-step
				fmt.Fprintf(w, "data: %d\n\n", i)
			}
		})
		p := serving(t, ca, how, local)
		resp, err := clientSpeaking(t, p, ca, version).Get("https://" + testHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		receiptOf(t, resp.Header)
		in := bufio.NewReader(resp.Body)
		for i := range 3 {
			step <- struct{}{}
			line, err := in.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("event %d: %q, %v", i, line, err)
			}
			_, _ = in.ReadString('\n')
		}
	})
}

// TestLargeBodies sends 3 MB both ways, with known and unknown length.
func TestLargeBodies(t *testing.T) {
	const size = 3 << 20
	everyWay(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		local := newLocal(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength >= 0 {
				w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
			}
			_, _ = io.Copy(w, r.Body)
		})
		cl := clientSpeaking(t, serving(t, ca, how, local), ca, version)
		for _, known := range []bool{true, false} {
			var body io.Reader = strings.NewReader(strings.Repeat("0123456789abcdef", size/16))
			if !known {
				body = struct{ io.Reader }{body}
			}
			r, _ := http.NewRequest("POST", "https://"+testHost+"/", body)
			resp, got := do(t, cl, r)
			if len(got) != size || (resp.ContentLength == size) != known {
				t.Errorf("known %v: %d bytes, Content-Length %d", known, len(got), resp.ContentLength)
			}
		}
	})
}

// TestCutOffIsSeen has guests that die in the middle of a response: the client must not take it for
// the end.
func TestCutOffIsSeen(t *testing.T) {
	everyWay(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		for _, known := range []bool{true, false} {
			local := newLocal(nil)
			local.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
				if known {
					w.Header().Set("Content-Length", "100000")
				}
				_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
				_ = http.NewResponseController(w).Flush()
				return Result{}, &GuestError{Kind: FaultTrap}
			}
			cl := clientSpeaking(t, serving(t, ca, how, local), ca, version)
			resp, err := cl.Get("https://" + testHost + "/")
			if err != nil {
				continue // cut off before the client saw the head: it knows
			}
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode != http.StatusBadGateway { // a reset may overtake the head on its way to the entry node
				t.Errorf("known length %v: %d with a clean end", known, resp.StatusCode)
			}
		}
	})
}

// TestClientLeavesAStream closes the client's end in the middle of a response: the guest's context
// must end.
func TestClientLeavesAStream(t *testing.T) {
	everyWay(t, func(t *testing.T, version int, how way) {
		ca, ended := newCA(t), make(chan struct{})
		local := newLocal(nil)
		local.handler = func(ctx context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
			_, _ = io.WriteString(w, "first")
			<-ctx.Done()
			close(ended)
			return Result{}, ctx.Err()
		}
		p := serving(t, ca, how, local)
		ctx, leave := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+"/", nil)
		resp, err := clientSpeaking(t, p, ca, version).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		leave()
		resp.Body.Close()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Error("the guest runs on")
		}
	})
}

// TestStalledBody sends a part of a body and then nothing.
func TestStalledBody(t *testing.T) {
	t.Parallel() // it waits
	everyWay(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		local := newLocal(nil)
		local.handler = func(ctx context.Context, w http.ResponseWriter, r *http.Request) (Result, error) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return Result{}, &GuestError{Kind: FaultNoResponse}
			}
			return Result{}, nil
		}
		p := serving(t, ca, how, local, func(c *Config) { c.StallTimeout = 200 * time.Millisecond })
		pr, pw := io.Pipe()
		defer pw.Close()
		go func() { _, _ = io.WriteString(pw, "part") }()
		r, _ := http.NewRequest("POST", "https://"+testHost+"/", pr)
		began := time.Now()
		resp, err := clientSpeaking(t, p, ca, version).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if d := time.Since(began); resp.StatusCode != 408 || d > 3*time.Second {
			t.Errorf("%d after %v", resp.StatusCode, d)
		}
		receiptOf(t, resp.Header)
	})
}

// TestSlowBodyMoves sends a body for much longer than the stall timeout, but without a pause.
func TestSlowBodyMoves(t *testing.T) {
	t.Parallel() // it waits
	for version := 1; version <= 3; version++ {
		ca := newCA(t)
		local := newLocal(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		p := serving(t, ca, here, local, func(c *Config) { c.StallTimeout = time.Second })
		pr, pw := io.Pipe()
		go func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for range 30 {
				<-tick.C
				if _, err := io.WriteString(pw, "x"); err != nil {
					return
				}
			}
			pw.Close()
		}()
		r, _ := http.NewRequest("POST", "https://"+testHost+"/", pr)
		resp, body := do(t, clientSpeaking(t, p, ca, version), r)
		if resp.StatusCode != 200 || body != strings.Repeat("x", 30) {
			t.Errorf("h%d: %d %q", version, resp.StatusCode, body)
		}
	}
}

// TestQuietGuestIsNoStall has a guest that takes longer than the stall timeout to answer, after it
// read the body: that is the guest's time, not the client's.
func TestQuietGuestIsNoStall(t *testing.T) {
	t.Parallel() // it waits
	everyWay(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		local := newLocal(nil)
		local.handler = func(ctx context.Context, w http.ResponseWriter, r *http.Request) (Result, error) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "first ")
			select {
			case <-time.After(400 * time.Millisecond):
			case <-ctx.Done():
				return Result{}, ctx.Err()
			}
			_, _ = io.WriteString(w, "second")
			return Result{}, nil
		}
		p := serving(t, ca, how, local, func(c *Config) { c.StallTimeout = 200 * time.Millisecond })
		r, _ := http.NewRequest("POST", "https://"+testHost+"/", strings.NewReader("body"))
		_, body := do(t, clientSpeaking(t, p, ca, version), r)
		equal(t, "body", body, "first second")
	})
}

// TestLateEnd has a guest that ends long after its last write, which is still held back then.
func TestLateEnd(t *testing.T) {
	t.Parallel() // it waits
	for version := 1; version <= 3; version++ {
		ca := newCA(t)
		local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4")
			_, _ = io.WriteString(w, "held")
			<-time.After(400 * time.Millisecond)
		})
		p := serving(t, ca, here, local, func(c *Config) { c.StallTimeout = 100 * time.Millisecond })
		_, body := get(t, clientSpeaking(t, p, ca, version), "https://"+testHost+"/")
		equal(t, "body", body, "held")
	}
}

// TestStalledReader asks for a large response and does not read it.
func TestStalledReader(t *testing.T) {
	t.Parallel() // it waits
	for version := 1; version <= 3; version++ {
		ca, ended := newCA(t), make(chan error, 1)
		local := newLocal(nil)
		local.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
			chunk := make([]byte, 64<<10)
			for {
				if _, err := w.Write(chunk); err != nil {
					ended <- err
					return Result{}, err
				}
			}
		}
		p := serving(t, ca, here, local, func(c *Config) { c.StallTimeout = 200 * time.Millisecond })
		resp, err := clientSpeaking(t, p, ca, version).Get("https://" + testHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second): // crypto/tls itself gives its last alert 5 s
			t.Errorf("h%d: the guest still writes", version)
		}
		resp.Body.Close()
	}
}

// TestKeepAliveOutlivesStall sends two requests over one connection with a pause longer than the
// stall timeout between them: deadlines of the first must not hit the second.
func TestKeepAliveOutlivesStall(t *testing.T) {
	t.Parallel() // it waits
	ca := newCA(t)
	local := newLocal(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	p := serving(t, ca, here, local, func(c *Config) { c.StallTimeout = 300 * time.Millisecond })
	addr, _ := p.Addrs()
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool(), NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", testHost)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != 100 {
			t.Fatalf("want 100: %v, %v", resp, err)
		}
		_, _ = io.WriteString(conn, "hello")
		resp, err = http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
		<-time.After(500 * time.Millisecond)
	}
}

// TestUnreadBody has guests that answer without reading what the client sends.
func TestUnreadBody(t *testing.T) {
	everyWay(t, func(t *testing.T, version int, how way) {
		ca := newCA(t)
		p := serving(t, ca, how, newLocal(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "6")
			_, _ = io.WriteString(w, "enough")
		}))
		pr, pw := io.Pipe() // never ends
		defer pw.Close()
		go func() { _, _ = io.WriteString(pw, "part") }()
		r, _ := http.NewRequest("POST", "https://"+testHost+"/", pr)
		began := time.Now()
		_, body := do(t, clientSpeaking(t, p, ca, version), r)
		if d := time.Since(began); body != "enough" || d > 2*time.Second {
			t.Errorf("%q after %v", body, d)
		}
	})
}

// TestUpgradeIsNotPassedOn asks for a WebSocket, which a function can't answer yet.
func TestUpgradeIsNotPassedOn(t *testing.T) {
	ca := newCA(t)
	var seen http.Header
	p := serving(t, ca, here, newLocal(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	_, addr := p.Addrs()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", testHost)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	if seen.Get("Upgrade") != "" || seen.Get("Connection") != "" {
		t.Errorf("the guest sees %v", seen)
	}
}

// TestZeroWindow is an h2 client that asks and never lets a byte of a body through.
func TestZeroWindow(t *testing.T) {
	t.Parallel() // it waits
	ca := newCA(t)
	p := serving(t, ca, here, newLocal(greet), func(c *Config) { c.StallTimeout = 200 * time.Millisecond })
	addr, _ := p.Addrs()
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool(), NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var head []byte // HPACK: literals without indexing
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", testHost}, {":path", "/"}} {
		head = append(head, 0, byte(len(f[0])))
		head = append(append(head, f[0]...), byte(len(f[1])))
		head = append(head, f[1]...)
	}
	const settings, headers, reset = 4, 1, 3
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	out = append(out, 0, 0, 6, settings, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0) // INITIAL_WINDOW_SIZE = 0
	out = append(out, 0, 0, byte(len(head)), headers, 5, 0, 0, 0, 1)      // END_HEADERS, END_STREAM
	if _, err := conn.Write(append(out, head...)); err != nil {
		t.Fatal(err)
	}
	answered := false
	for {
		var frame [9]byte
		if _, err := io.ReadFull(conn, frame[:]); err != nil {
			t.Fatalf("no end of the stream (answered %v): %v", answered, err)
		}
		if _, err := io.CopyN(io.Discard, conn, int64(frame[0])<<16|int64(frame[1])<<8|int64(frame[2])); err != nil {
			t.Fatal(err)
		}
		answered = answered || frame[3] == headers
		if frame[3] == reset {
			break
		}
	}
	equal(t, "answered", answered, true)
}

// TestInformational: Early Hints of a function reach the client, without fields of ours or of the connection,
// and a client that waits before it sends a body is told to go on.
func TestInformational(t *testing.T) {
	ca := newCA(t)
	everyWay(t, func(t *testing.T, version int, how way) {
		if how != fakeHop { // which has no such responses
			testInformational(t, ca, version, how)
		}
	})
}

func testInformational(t *testing.T, ca *testCA, version int, how way) {
	p := serving(t, ca, how, newLocal(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.Header().Set("Perigee-Region", "forged")
		for range maxHints + 3 {
			w.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = w.Write(b)
	}))
	var hints []string
	var mu sync.Mutex
	continued := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		mu.Lock()
		defer mu.Unlock()
		if code == http.StatusContinue {
			continued++
		} else {
			hints = append(hints, fmt.Sprint(code, h["Link"], h["Perigee-Region"], h[ReceiptHeader]))
		}
		return nil
	}})
	r, _ := http.NewRequestWithContext(ctx, "POST", "https://"+testHost+"/", strings.NewReader("body"))
	r.Header.Set("Expect", "100-continue")
	resp, body := do(t, clientSpeaking(t, p, ca, version), r)
	mu.Lock()
	if len(hints) != maxHints || hints[0] != "103 [</style.css>; rel=preload] [] []" || body != "body" || resp.StatusCode != 200 || continued == 0 {
		t.Errorf("h%d: hints %q, %d times to go on, %d %q", version, hints, continued, resp.StatusCode, body)
	}
	mu.Unlock()
}
