package main

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// socketPath is where the function is that has an origin with WebSockets; socketKey is what it asks for.
const (
	socketPath = "/socket"
	socketKey  = "secret"
)

// beOrigin speaks WebSocket: it answers each ping at once, and throws away what else it gets.
func beOrigin(addr string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 1.3
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		for err == nil {
			err = answerFrame(conn, rw.Reader)
		}
	}))
}

// answerFrame reads a frame of at most 125 bytes.
func answerFrame(conn net.Conn, in *bufio.Reader) error {
	var head [6]byte // with the mask
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return err
	}
	if _, err := in.Discard(int(head[1] & 0x7f)); err != nil {
		return err
	}
	if head[0]&0xf != 9 {
		return nil
	}
	_, err := conn.Write([]byte{0x8a, 0})
	return err
}

var (
	wsPings     = strings.Repeat("\x89\x80\x00\x00\x00\x00", sendSize/6)
	wsFragments = strings.Repeat("\x00\x80\x00\x00\x00\x00", sendSize/6) // of a message that does not end
	wsMessage   = "\x01\x80\x00\x00\x00\x00"                             // its begin
)

// onSocket opens one WebSocket after the other, and sends a begin and then the same as long as it lasts.
func onSocket(open func(context.Context, *attacker) (io.WriteCloser, error), begin, text string) func(*attacker) (func(context.Context), error) {
	return func(a *attacker) (func(context.Context), error) {
		c, err := open(context.Background(), a)
		if err != nil {
			return nil, err // nobody would be attacked
		}
		c.Close()
		return func(ctx context.Context) {
			for ctx.Err() == nil {
				c, err := open(ctx, a)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { c.Close() })
				for _, err = io.WriteString(c, begin); err == nil; {
					_, err = io.WriteString(c, text)
				}
				stop()
				c.Close()
			}
		}, nil
	}
}

// socket1 opens a WebSocket over HTTP/1. What the server says then is not decrypted.
func socket1(ctx context.Context, a *attacker) (io.WriteCloser, error) {
	c, err := a.dialTLS(ctx, "http/1.1", false)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", socketPath, host, socketKey)
	head := make([]byte, 4<<10)
	if err == nil {
		_, err = c.Read(head)
	}
	if err == nil && !strings.HasPrefix(string(head), "HTTP/1.1 101 ") {
		err = fmt.Errorf("no WebSocket: %.40q", head)
	}
	if err != nil {
		c.NetConn().Close()
		return nil, err
	}
	go func() { _, _ = io.Copy(io.Discard, c.NetConn()) }() // until it is closed
	return rawEnd{c}, nil
}

// rawEnd ends a connection without a word.
type rawEnd struct{ *tls.Conn }

func (c rawEnd) Close() error { return c.NetConn().Close() }

// socket2 opens one over HTTP/2 (RFC 8441).
func socket2(ctx context.Context, a *attacker) (io.WriteCloser, error) {
	c, err := a.dialTLS(ctx, "h2", false)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 net/http's client refuses the field :protocol
	cc, err := new(http2.Transport).NewClientConn(c)
	if err != nil {
		c.NetConn().Close()
		return nil, err
	}
	return extended(ctx, cc, func(r *http.Request) { r.Header[":protocol"] = []string{"websocket"} }, func() { c.NetConn().Close() })
}

// socket3 opens one over HTTP/3 (RFC 9220).
func socket3(ctx context.Context, a *attacker) (io.WriteCloser, error) {
	a.count.Add(1)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: sender(a.count.Load())})
	if err != nil {
		return nil, err
	}
	to, err := net.ResolveUDPAddr("udp", a.addr)
	if err != nil {
		return nil, err
	}
	c, err := quic.Dial(ctx, countedPackets{socket, a}, to, cheapTLS(http3.NextProtoH3), nil)
	if err != nil {
		socket.Close()
		return nil, err
	}
	end := func() {
		_ = c.CloseWithError(0, "")
		socket.Close()
	}
	return extended(ctx, (&http3.Transport{}).NewClientConn(c), func(r *http.Request) { r.Proto = "websocket" }, end)
}

// extended asks for a WebSocket by extended CONNECT.
func extended(ctx context.Context, on http.RoundTripper, dress func(*http.Request), end func()) (io.WriteCloser, error) {
	body, w := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://"+host+socketPath, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("X-Api-Key", socketKey)
	dress(r)
	limit := time.AfterFunc(attackTime, end)
	resp, err := on.RoundTrip(r)
	limit.Stop()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("no WebSocket: %s", resp.Status)
	}
	if err != nil {
		end()
		return nil, err
	}
	go func() {
		_, err := io.Copy(io.Discard, resp.Body)
		_ = body.CloseWithError(fmt.Errorf("the server's end: %w", err))
	}()
	return &extendedSocket{w, end}, nil
}

type extendedSocket struct {
	*io.PipeWriter
	end func()
}

func (s *extendedSocket) Close() error {
	s.end()
	return s.PipeWriter.Close()
}
