package edgeproxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// dial1 opens a connection for HTTP/1.
func dial1(t *testing.T, p *Proxy, ca *testCA) (*tls.Conn, *bufio.Reader) {
	t.Helper()
	addr, _ := p.Addrs()
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool(), NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(wsWatch))
	return conn, bufio.NewReader(conn)
}

// TestUnreadBodyKeepsTheConnection has guests that answer without a look at the body, which has come whole:
// the connection goes on, for its client may be asking for more on it.
func TestUnreadBodyKeepsTheConnection(t *testing.T) {
	for _, how := range []way{here, quicHop} {
		for _, length := range []string{"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"} {
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s,%.8s,known=%v", how, length, known), func(t *testing.T) {
					ca := newCA(t)
					p := serving(t, ca, how, newLocal(func(w http.ResponseWriter, _ *http.Request) {
						if known {
							w.Header().Set("Content-Length", "6")
						}
						_, _ = io.WriteString(w, "enough")
					}))
					conn, in := dial1(t, p, ca)
					for i := range 50 {
						fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\n%s", testHost, length)
						resp, err := http.ReadResponse(in, nil)
						if err != nil {
							t.Fatalf("request %d: %v", i, err)
						}
						if b, err := io.ReadAll(resp.Body); string(b) != "enough" || err != nil || resp.Close {
							t.Fatalf("request %d: %q, %v, the connection is to close: %v", i, b, err, resp.Close)
						}
					}
				})
			}
		}
	}
}

// TestUnreadBodyIsNoRequest sends a body only after the guest has answered without it: what it says is not
// taken for a request, as a proxy in front could be made to send one.
func TestUnreadBodyIsNoRequest(t *testing.T) {
	t.Parallel() // it waits
	for _, known := range []bool{true, false} {
		ca := newCA(t)
		local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
			if known {
				w.Header().Set("Content-Length", "6")
			}
			_, _ = io.WriteString(w, "enough")
		})
		p := serving(t, ca, here, local)
		conn, in := dial1(t, p, ca)
		body := "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", testHost, len(body))
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "enough" || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		<-time.After(lingering + 200*time.Millisecond)
		_, _ = io.WriteString(conn, body) // fails if the connection has ended
		if resp, err := http.ReadResponse(in, nil); err == nil {
			t.Errorf("known %v: %s", known, resp.Status)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("known %v: the connection stays", known)
		}
		equal(t, "runs", local.runs.Load(), 1)
	}
}

// TestRefusalsDoNotWait refuses requests whose bodies never come.
func TestRefusalsDoNotWait(t *testing.T) {
	t.Parallel() // it waits
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, ca))
	run(t, p)
	for _, length := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		conn, in := dial1(t, p, ca)
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nPerigee-Force-Region: mars\r\n%s\r\n\r\n", testHost, length)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", length, err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 403 || !resp.Close {
			t.Errorf("%s: %s, %q, %v, the connection is to close: %v", length, resp.Status, b, err, resp.Close)
		}
	}
}

// TestUnreadChunks: chunks that nobody read are not read for the next request's sake, if they are many.
func TestUnreadChunks(t *testing.T) {
	for size, want := range map[int]bool{maxUnreadChunks / 2: true, 2 * maxUnreadChunks: false} {
		b := &body{src: strings.NewReader(strings.Repeat("a", size)), chunked: true}
		if b.drain() != want {
			t.Errorf("%d bytes: read to the end is not %v", size, want)
		}
	}
	b := &body{src: strings.NewReader(strings.Repeat("a", 2*maxUnreadChunks))}
	equal(t, "of a known length", b.drain(), true)
}
