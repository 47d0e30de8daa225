package peerlink

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	probeMark = "?pg" // the first two bits of '?' are 0, and it is no type of membership packet
	probeAsk  = 1
	probeEcho = 2

	probeTries = 3
	probeWait  = time.Second // for each try

	probeRate = 50 // answers a second
)

// probeNonce ties an answer to its question.
type probeNonce [16]byte

const probeSize = len(probeMark) + 1 + len(probeNonce{})

func isProbe(b []byte) bool {
	return len(b) >= len(probeMark) && string(b[:len(probeMark)]) == probeMark
}

// prober asks and answers probes on a socket. An answer is as long as its question, so that nobody
// gains by asking in another's name.
type prober struct {
	write    func([]byte, net.Addr) (int, error)
	answered func() // counts
	limit    *rate.Limiter

	mu      sync.Mutex // guards waiting
	waiting map[probeNonce]chan struct{}
}

func newProber(write func([]byte, net.Addr) (int, error), answered func()) *prober {
	return &prober{write: write, answered: answered, limit: rate.NewLimiter(probeRate, probeRate), waiting: map[probeNonce]chan struct{}{}}
}

// handle answers a probe, or notes that one was answered. The answer may come from another address
// than was asked: the host may have several, and only who got the question knows the nonce.
func (p *prober) handle(b []byte, from net.Addr) {
	if len(b) != probeSize {
		return
	}
	nonce := probeNonce(b[len(probeMark)+1:])
	switch b[len(probeMark)] {
	case probeAsk:
		if p.limit.Allow() {
			p.answered()
			_, _ = p.write(encodeProbe(probeEcho, nonce), from) // a lost answer is asked for again
		}
	case probeEcho:
		p.mu.Lock()
		defer p.mu.Unlock()
		if done, ok := p.waiting[nonce]; ok {
			close(done)
			delete(p.waiting, nonce)
		}
	}
}

func encodeProbe(kind byte, nonce probeNonce) []byte {
	return append(append([]byte(probeMark), kind), nonce[:]...)
}

// ask sends probes until one is answered.
func (p *prober) ask(ctx context.Context, addr netip.AddrPort) error {
	var nonce probeNonce
	_, _ = rand.Read(nonce[:]) // never fails
	done := make(chan struct{})
	p.mu.Lock()
	p.waiting[nonce] = done
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, nonce)
	}()
	again := time.NewTicker(probeWait)
	defer again.Stop()
	for range probeTries {
		if _, err := p.write(encodeProbe(probeAsk, nonce), net.UDPAddrFromAddrPort(addr)); err != nil {
			return fmt.Errorf("probe %s: %w", addr, err)
		}
		select {
		case <-done:
			return nil
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("probe %s: %w", addr, context.Cause(ctx))
		}
	}
	return fmt.Errorf("probe %s: no answer within %v: check that UDP port %d is open to this node and that the address is the one others should use",
		addr, probeTries*probeWait, addr.Port())
}

// isStream reports whether a TCP connection begins with a probe, which it answers. If not, it returns the
// connection from its beginning on.
func (p *prober) isStream(c net.Conn) (net.Conn, bool, error) {
	b := make([]byte, len(probeMark))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, false, err
	}
	if !isProbe(b) {
		return &begun{Conn: c, head: b}, false, nil
	}
	b = append(b, make([]byte, probeSize-len(b))...)
	if _, err := io.ReadFull(c, b[len(probeMark):]); err != nil {
		return nil, true, err
	}
	if b[len(probeMark)] != probeAsk || !p.limit.Allow() {
		return nil, true, nil
	}
	p.answered()
	_, err := c.Write(encodeProbe(probeEcho, probeNonce(b[len(probeMark)+1:])))
	return nil, true, err
}

// begun is a connection whose first bytes were read already.
type begun struct {
	net.Conn
	head []byte
}

// Read implements net.Conn.
func (c *begun) Read(b []byte) (int, error) {
	if len(c.head) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.head)
	c.head = c.head[n:]
	return n, nil
}

// askStream is ask over TCP, where whoever answers is asked once.
func askStream(ctx context.Context, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, probeTries*probeWait)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	var nonce probeNonce
	_, _ = rand.Read(nonce[:]) // never fails
	if _, err := c.Write(encodeProbe(probeAsk, nonce)); err != nil {
		return err
	}
	got := make([]byte, probeSize)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, encodeProbe(probeEcho, nonce)) {
		return errors.New("what answers there is no node")
	}
	return nil
}

// Reach reports whether a Perigee socket answers at the address: a node's, or that of a joiner's
// DialOn. It sends up to three small packets over three seconds and needs no connection, and asks over TCP
// meanwhile, if this node has that: an address that answers there only is reached, too. It does
// not tell which node answers. Behind NAT, an address that this node talked to before may answer
// although others can't reach it.
func (l *Link) Reach(ctx context.Context, addr netip.AddrPort) error {
	if err := l.ready(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(l.life, func() { cancel(ErrClosed) })
	defer stop()
	if l.cfg.TCP == nil {
		return l.probes.ask(ctx, addr)
	}
	overTCP := make(chan error, 1)
	go func() { overTCP <- askStream(ctx, addr) }()
	err := l.probes.ask(ctx, addr)
	if err == nil {
		cancel(nil)
	}
	if terr := <-overTCP; err != nil && terr != nil {
		return fmt.Errorf("%w; nor does TCP port %d answer: %w", err, addr.Port(), terr)
	}
	return nil
}
