package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// attack is a way to have a server do more than its sender.
type attack struct {
	name    string
	prepare func(*attacker) (run func(context.Context), err error)
	valid   bool // what it sends are requests that a function answers: for comparison
}

// attacks are those of one sender that is as cheap as we could make it: what it sends is made before, and what
// comes back is thrown away undecrypted.
var attacks = []attack{
	{name: "tls_garbage", prepare: onTCP(garbage)},
	{name: "tls_hello_replayed", prepare: onTCP(replayHello)},
	{name: "tls_random_names", prepare: randomNames},
	{name: "tls_key_updates", prepare: keyUpdates},
	{name: "tls_renegotiation", prepare: renegotiate},
	{name: "h1_slow_heads", prepare: slowly("http/1.1", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", "a")},
	{name: "h1_slow_bodies", prepare: slowly("http/1.1", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", "a")},
	{name: "h1_requests", prepare: h1(strings.Repeat("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), true), valid: true},
	{name: "h2_requests", prepare: h2(requests(func(b []byte, stream uint32) []byte { return frame(b, 1, endStream|endHeaders, stream, get) })), valid: true},
	{name: "h1_unread_answers", prepare: unread},
	{name: "h1_many_fields", prepare: h1(head(strings.Repeat("A: b\r\n", 120)), true), valid: true},
	{name: "h1_too_many_fields", prepare: h1(head(strings.Repeat("A: b\r\n", 2000)), true)},
	{name: "h1_large_head", prepare: h1(head("A: "+strings.Repeat("b", 15<<10)+"\r\n"), true), valid: true},
	{name: "h1_endless_head", prepare: h1("GET / HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat("A: b\r\n", 100_000), true)},
	{name: "h1_tiny_chunks", prepare: h1("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1\r\na\r\n", 20_000)+"0\r\n\r\n", true)},
	{name: "h1_chunk_extensions", prepare: h1("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\na\r\n", 300)+"0\r\n\r\n", true)},
	{name: "h1_two_lengths", prepare: h1("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true)},
	{name: "h1_cookies", prepare: h1(head(strings.Repeat("Cookie: "+strings.Repeat("a=b; ", 20)+"\r\n", 100)), true), valid: true},
	{name: "h2_rapid_reset", prepare: h2(rapidResets)},
	{name: "h2_made_you_reset", prepare: h2(madeYouReset)},
	{name: "h2_continuation", prepare: h2(continuation)},
	{name: "h2_empty_continuation", prepare: h2(emptyContinuation)},
	{name: "h2_hpack_bomb", prepare: h2(hpackBomb)},
	{name: "h2_many_fields", prepare: h2(manyFields), valid: true},
	{name: "h2_too_many_fields", prepare: h2(tooManyFields)},
	{name: "h2_settings", prepare: h2(repeatFrame(4, 0, 0, ""))},
	{name: "h2_window_settings", prepare: h2(windowSettings)},
	{name: "h2_ping", prepare: h2(repeatFrame(6, 0, 0, "12345678"))},
	{name: "h2_window_updates", prepare: h2(repeatFrame(8, 0, 0, "\x00\x00\x00\x01"))},
	{name: "h2_priority", prepare: h2(priorities)},
	{name: "h2_unknown_frames", prepare: h2(repeatFrame(0xfa, 0, 0, ""))},
	{name: "h2_empty_data", prepare: h2(dataFrames(""))},
	{name: "h2_tiny_data", prepare: h2(dataFrames("a"))},
	{name: "h2_slow_read", prepare: h2(unreadStreams)},
	{name: "quic_garbage", prepare: quicGarbage},
	{name: "quic_versions", prepare: quicVersions},
	{name: "quic_initials", prepare: quicInitials},
	{name: "quic_unfinished", prepare: quicUnfinished},
	{name: "h3_rapid_reset", prepare: h3Resets},
	{name: "h3_half_heads", prepare: h3HalfHeads},
	{name: "h3_many_fields", prepare: onQUIC(h3Ask(h3ManyFields)), valid: true},
	{name: "h3_too_many_fields", prepare: onQUIC(h3Ask(h3TooMany))},
	{name: "h3_empty_data", prepare: onQUIC(h3Frames("\x00\x00"))},
	{name: "h3_unknown_frames", prepare: onQUIC(h3Frames("\x21\x00"))},
	{name: "ws1_pings", prepare: onSocket(socket1, "", wsPings)},
	{name: "ws2_pings", prepare: onSocket(socket2, "", wsPings)},
	{name: "ws3_pings", prepare: onSocket(socket3, "", wsPings)},
	{name: "ws1_fragments", prepare: onSocket(socket1, wsMessage, wsFragments)},
	{name: "ws2_fragments", prepare: onSocket(socket2, wsMessage, wsFragments)},
	{name: "ws3_fragments", prepare: onSocket(socket3, wsMessage, wsFragments)},
}

// counted is a connection whose bytes an attacker counts.
type counted struct {
	net.Conn
	a *attacker
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.a.received.Add(int64(n))
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.a.sent.Add(int64(n))
	return n, err
}

// dial opens the next connection.
func (a *attacker) dial(ctx context.Context) (net.Conn, error) {
	from := sender(a.count.Add(1))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	if a.narrow {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
		}
	}
	c, err := d.DialContext(ctx, "tcp", a.addr)
	if err != nil {
		time.Sleep(time.Millisecond)
		return nil, err
	}
	return counted{c, a}, nil
}

func cheapTLS(protocol string) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{protocol}}
}

// dialTLS opens the next connection as far as a protocol's first byte. What the server says then is thrown
// away, if it is read at all.
func (a *attacker) dialTLS(ctx context.Context, protocol string, read bool) (*tls.Conn, error) {
	raw, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(2 * attackTime)) // never fails
	c := tls.Client(raw, cheapTLS(protocol))
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if read {
		go func() {
			_, _ = io.Copy(io.Discard, raw)
			raw.Close()
		}()
	}
	return c, nil
}

// onTCP repeats an attack that takes a connection each time.
func onTCP(prepare func(*attacker) (once func(net.Conn), err error)) func(*attacker) (func(context.Context), error) {
	return func(a *attacker) (func(context.Context), error) {
		once, err := prepare(a)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) {
			for ctx.Err() == nil {
				c, err := a.dial(ctx)
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(attackTime)) // never fails
				once(c)
				c.Close()
			}
		}, nil
	}
}

func garbage(*attacker) (func(net.Conn), error) {
	b := make([]byte, 4<<10)
	_, _ = rand.Read(b) // never fails
	copy(b, "\x16\x03\x01\x0f\xf0\x01\x00\x0f\xec\x03\x03")
	return func(c net.Conn) {
		_, _ = c.Write(b)
		_, _ = c.Read(make([]byte, 1<<10))
	}, nil
}

// replayHello has the server do its part of a handshake, and does nothing of its own.
func replayHello(*attacker) (func(net.Conn), error) {
	hello, err := clientHello()
	return func(c net.Conn) {
		_, _ = c.Write(hello)
		_, _ = c.Read(make([]byte, 4<<10))
	}, err
}

func clientHello() ([]byte, error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go func() { _ = tls.Client(theirs, cheapTLS("h2")).Handshake() }()
	b := make([]byte, 8<<10)
	n, err := ours.Read(b)
	return b[:n], err
}

// randomNames asks for certificates of names that nobody deployed.
func randomNames(a *attacker) (func(context.Context), error) {
	hello, err := clientHello()
	if err != nil {
		return nil, err
	}
	at := strings.Index(string(hello), host)
	run, err := onTCP(func(*attacker) (func(net.Conn), error) {
		return func(c net.Conn) {
			var name [len(host)]byte
			_, _ = rand.Read(name[:]) // never fails
			copy(hello[at:at+len(host)], hex.EncodeToString(name[:]))
			_, _ = c.Write(hello)
			_, _ = c.Read(make([]byte, 4<<10))
		}, nil
	})(a)
	return run, err
}

// slowly opens connections, begins a request on each, and sends the next byte once a second.
func slowly(protocol, begin, more string) func(*attacker) (func(context.Context), error) {
	return func(a *attacker) (func(context.Context), error) {
		return func(ctx context.Context) {
			var wg sync.WaitGroup
			defer wg.Wait()
			for range 1000 {
				c, err := a.dialTLS(ctx, protocol, false)
				if err != nil {
					continue
				}
				wg.Go(func() {
					defer c.Close()
					_, err := io.WriteString(c, begin)
					for err == nil {
						select {
						case <-ctx.Done():
							return
						case <-time.After(time.Second):
							_, err = io.WriteString(c, more)
						}
					}
				})
			}
			<-ctx.Done()
		}, nil
	}
}

func head(fields string) string { return "GET / HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n" }

// h1 sends a text again and again, on one connection as long as that lasts.
func h1(text string, read bool) func(*attacker) (func(context.Context), error) {
	return repeat("http/1.1", read, func() func() []byte { b := []byte(text); return func() []byte { return b } })
}

// unread asks on as many connections as it may have, and takes no answers.
func unread(a *attacker) (func(context.Context), error) {
	a.narrow = true
	text := strings.Repeat("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
	return func(ctx context.Context) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for range 500 {
			c, err := a.dialTLS(ctx, "http/1.1", false)
			if err != nil {
				continue
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.NetConn().Close() })()
				for err == nil {
					_, err = io.WriteString(c, text)
				}
			})
		}
	}, nil
}

// repeat opens one connection after the other, and sends what a generator gives until the connection ends.
func repeat(protocol string, read bool, begin func() (next func() []byte)) func(*attacker) (func(context.Context), error) {
	return func(a *attacker) (func(context.Context), error) {
		return func(ctx context.Context) {
			for ctx.Err() == nil {
				c, err := a.dialTLS(ctx, protocol, read)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { c.NetConn().Close() })
				for next := begin(); err == nil; {
					_, err = c.Write(next())
				}
				stop()
				c.NetConn().Close()
			}
		}, nil
	}
}

// healthyClient asks as anybody does, on a new connection now and then, until ctx ends. It returns what the
// answers took, in order of length, and how many requests got none of status 200.
func healthyClient(ctx context.Context, addr string, each func()) (took []time.Duration, failed int) {
	tr := clientOf("h2", addr)
	defer func() { tr.close() }()
	for n := 1; ctx.Err() == nil; n++ {
		if n%25 == 0 {
			tr.close()
			tr = clientOf("h2", addr)
		}
		began := time.Now()
		if err := tr.get(); err != nil {
			failed++
		}
		took = append(took, time.Since(began))
		each()
		time.Sleep(max(0, healthyEach-time.Since(began)))
	}
	slices.Sort(took)
	return took, failed
}
