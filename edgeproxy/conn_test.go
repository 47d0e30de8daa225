package edgeproxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/perigee-edge/perigee/internal/mutant"
)

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }

// dialFrom opens a TCP connection from an address of loopback.
func dialFrom(t *testing.T, from string, to net.Addr) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// ask sends a plain request over a connection; "" = the connection was closed.
func ask(c net.Conn, extra string) string {
	_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n", testHost, extra)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return ""
	}
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// whoAsks is a guest that says who the client is.
func whoAsks(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s", r.Header.Get(headerFor), r.Header.Get(headerProto))
}

// TestConnectionBounds opens more connections than one client may, and than all may, over TCP and QUIC.
func TestConnectionBounds(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(whoAsks), newHops(), withH3(t, ca), func(c *Config) { c.MaxConnsPerIP, c.MaxConns = 3, 5 })
	run(t, p)
	_, addr := p.Addrs()
	var conns []net.Conn
	for range 3 {
		c := dialFrom(t, "127.0.0.1", addr)
		conns = append(conns, c)
		equal(t, "within the bound", ask(c, ""), "127.0.0.1 http")
	}
	equal(t, "one too many", ask(dialFrom(t, "127.0.0.1", addr), ""), "")
	if resp, err := client3(t, p, ca).Get("https://" + testHost + "/"); err == nil {
		resp.Body.Close()
		t.Error("one too many over HTTP/3: answered")
	}
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		equal(t, "another client", ask(dialFrom(t, from, addr), ""), from+" http")
	}
	equal(t, "one too many in all", ask(dialFrom(t, "127.0.0.4", addr), ""), "")
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_refused_connections_total", ""), 3)
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "there is room again", func() bool { return ask(dialFrom(t, "127.0.0.1", addr), "") != "" })
	get(t, client3(t, p, ca), "https://"+testHost+"/")
}

func TestClientOf(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:2", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1", true},
	} {
		equal(t, c.a+" "+c.b, clientOf(netip.MustParseAddr(c.a)) == clientOf(netip.MustParseAddr(c.b)), c.same)
	}
}

// TestProxyProtocol has a load balancer on 127.0.0.9.
func TestProxyProtocol(t *testing.T) {
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(whoAsks), newHops(), withTLS(t, newCA(t)), func(c *Config) {
		c.ProxyProtocol, c.MaxConnsPerIP = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}, 2
	})
	run(t, p)
	_, addr := p.Addrs()
	v1 := func(client string) string { return "PROXY TCP4 " + client + " 203.0.113.1 5000 80\r\n" }
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\xcb\x00\x71\x01\x13\x88\x00\x50" // 198.51.100.7
	for _, c := range []struct{ from, head, want string }{
		{"127.0.0.9", v1("198.51.100.1"), "198.51.100.1 http"},
		{"127.0.0.9", v2, "198.51.100.7 http"},
		{"127.0.0.9", "", ""},
		{"127.0.0.9", "PROXY TCP4 nobody\r\n", ""},
		{"127.0.0.1", v1("198.51.100.1"), "400 Bad Request"},
		{"127.0.0.1", "", "127.0.0.1 http"},
	} {
		conn := dialFrom(t, c.from, addr)
		_, _ = io.WriteString(conn, c.head)
		if got := ask(conn, ""); got != c.want && !(c.want != "" && strings.HasPrefix(got, c.want)) {
			t.Errorf("from %s with %q: %q, want %q", c.from, c.head, got, c.want)
		}
		conn.Close()
	}
	for i := range 3 { // the bound is of the client behind it
		conn := dialFrom(t, "127.0.0.9", addr)
		_, _ = io.WriteString(conn, v1("198.51.100.2"))
		equal(t, fmt.Sprint("connection ", i), ask(conn, "") != "", i < 2)
	}
	conn := dialFrom(t, "127.0.0.9", addr)
	_, _ = io.WriteString(conn, v1("198.51.100.3"))
	equal(t, "another client", ask(conn, ""), "198.51.100.3 http")
}

func TestForwarded(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct{ peer, lines, want string }{
		{"10.0.0.1", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", "6.6.6.6|198.51.100.1, 10.0.0.2|10.0.0.3", "198.51.100.1"},
		{"10.0.0.1", "198.51.100.1:5000", "198.51.100.1"},
		{"2001:db8::1", "[2001:db9::1]:5000,2001:db8::2", "2001:db9::1"},
		{"10.0.0.1", "[2001:db9::1]", "2001:db9::1"},
		{"10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"},
		{"10.0.0.1", "6.6.6.6, unknown, 10.0.0.3", "10.0.0.3"},
		{"10.0.0.1", "", "10.0.0.1"},
	} {
		h := http.Header{headerFor: strings.Split(c.lines, "|")}
		got, _ := forwarded(h, netip.MustParseAddr(c.peer), trusted)
		equal(t, c.lines, got.String(), c.want)
	}
	for lines, want := range map[string]string{"": "", "https": "https", "HTTPS": "https", "http, https": "https", "https, gopher": "", "x|http": "http"} {
		_, got := forwarded(http.Header{headerProto: strings.Split(lines, "|")}, netip.MustParseAddr("10.0.0.1"), trusted)
		equal(t, lines, got, want)
	}
}

// TestTrustedProxies asks through a trusted proxy and from elsewhere.
func TestTrustedProxies(t *testing.T) {
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(whoAsks), newHops(), withTLS(t, newCA(t)), func(c *Config) {
		c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
	})
	run(t, p)
	_, addr := p.Addrs()
	said := "X-Forwarded-For: 6.6.6.6, 198.51.100.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n"
	equal(t, "trusted", ask(dialFrom(t, "127.0.0.9", addr), said), "198.51.100.1 https")
	equal(t, "not trusted", ask(dialFrom(t, "127.0.0.1", addr), said), "127.0.0.1 http")
}

// TestHiddenRequest has a proxy pass on a request with two lengths. It went by the other one than we do, so that what it takes for the rest
// of the body is a request here, which is not answered.
func TestHiddenRequest(t *testing.T) {
	local := newLocal(whoAsks)
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops(), withTLS(t, newCA(t)), func(c *Config) {
		c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
	})
	run(t, p)
	_, addr := p.Addrs()
	hidden := "GET /hidden HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	both := fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", len("0\r\n\r\n")+len(hidden))
	for _, c := range []struct {
		from, rest string
		answers    int64
	}{{"127.0.0.9", both, 1}, {"127.0.0.9", "Content-Length: 1\r\n\r\nx", 2}, {"127.0.0.1", both, 2}} {
		before := local.runs.Load()
		conn := dialFrom(t, c.from, addr)
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\n%s%s", testHost, c.rest, hidden)
		in, n := bufio.NewReader(conn), int64(0)
		for n < c.answers {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("from %s, answer %d: %v", c.from, n+1, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			n++
			equal(t, "closed", resp.Close, c.answers == 1)
		}
		if c.answers == 1 {
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("after the answer: %v", err)
			}
		}
		equal(t, "requests from "+c.from, local.runs.Load()-before, c.answers)
	}
}

// TestSlowBody sends a byte now and then: never long enough apart to count as stalled.
func TestSlowBody(t *testing.T) {
	for _, begun := range []bool{false, true} {
		began := make(chan struct{})
		p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
			if begun {
				w.(http.Flusher).Flush()
			}
			close(began)
			_, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, err)
		}), newHops(), withTLS(t, newCA(t)), func(c *Config) { c.StallTimeout, c.MinBodyRate = 200*time.Millisecond, 1000 })
		run(t, p)
		_, addr := p.Addrs()
		conn := dialFrom(t, "127.0.0.1", addr)
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 12\r\n\r\n", testHost)
		<-began
		go func() {
			for range 12 {
				time.Sleep(50 * time.Millisecond)
				if _, err := conn.Write([]byte{'x'}); err != nil {
					return
				}
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		want := errBodyStalled.Error()
		if begun {
			want = "<nil>" // two that talk
		}
		equal(t, "what the guest reads", string(b), want)
	}
}

// h2 is a client that sends what frames it likes.
type h2 struct {
	*http2.Framer
	conn  net.Conn
	head  []byte // a GET
	ended chan struct{}
}

// dialH2 reads all that comes if read is set, and else nothing.
func dialH2(t *testing.T, p *Proxy, ca *testCA, read bool) *h2 {
	t.Helper()
	addr, _ := p.Addrs()
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &h2{Framer: http2.NewFramer(conn, conn), conn: conn, ended: make(chan struct{})}
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", testHost}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	c.head = b.Bytes()
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = c.WriteSettings()
	if read {
		go func() {
			defer close(c.ended)
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
	return c
}

// TestH2Floods sends what RFC 9113 allows and no client does, until the server ends the connection.
func TestH2Floods(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), newHops(), withTLS(t, ca), quiet)
	run(t, p)
	for _, flood := range []struct {
		name string
		read bool
		most int // frames
		send func(c *h2, i int) error
	}{
		{"rapid reset", true, 5000, func(c *h2, i int) error {
			id := uint32(2*i + 1)
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head, EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			time.Sleep(100 * time.Microsecond)
			return c.WriteRSTStream(id, http2.ErrCodeCancel)
		}},
		{"continuation", true, 100, func(c *h2, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head})
			}
			return c.WriteContinuation(1, false, bytes.Repeat([]byte("\x00\x01a\x01b"), 2000))
		}},
		{"pings unread", false, 2_000_000, func(c *h2, i int) error { return c.WritePing(false, [8]byte{}) }},
		{"pings", true, 5000, func(c *h2, i int) error { return c.WritePing(false, [8]byte{}) }},
		{"settings", true, 5000, func(c *h2, i int) error { return c.WriteSettings() }},
		{"windows", true, 5000, func(c *h2, i int) error { return c.WriteWindowUpdate(0, 1) }},
		{"unknown frames", true, 5000, func(c *h2, i int) error { return c.WriteRawFrame(0xfa, 0, 0, nil) }},
		{"empty data", true, 5000, func(c *h2, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head, EndHeaders: true})
			}
			return c.WriteData(1, false, nil)
		}},
		{"too many fields", true, 5000, func(c *h2, i int) error {
			fields := append(c.head[:len(c.head):len(c.head)], bytes.Repeat([]byte("\x00\x01a\x01b"), maxFields+1)...)
			time.Sleep(100 * time.Microsecond)
			return c.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: fields, EndStream: true, EndHeaders: true})
		}},
		{"made you reset", true, 5000, func(c *h2, i int) error {
			id := uint32(2*i + 1)
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head, EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			time.Sleep(100 * time.Microsecond)
			return c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
		}},
	} {
		t.Run(flood.name, func(t *testing.T) {
			c := dialH2(t, p, ca, flood.read)
			sent, ended := 0, func() bool {
				select {
				case <-c.ended:
					return true
				default:
					return false
				}
			}
			for sent < flood.most && !ended() && flood.send(c, sent) == nil {
				sent++
			}
			if flood.read {
				select {
				case <-c.ended:
				case <-time.After(5 * time.Second):
					t.Errorf("the connection stands after %d frames", sent)
				}
			} else if sent == flood.most {
				t.Errorf("the connection stands after %d frames", sent)
			}
			t.Logf("ended after %d frames", sent)
		})
	}
}
