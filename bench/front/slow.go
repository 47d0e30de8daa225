package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// slowRounds is how often healthy clients are measured on each protocol, without and with the others by turns: a p99
// of three seconds is six requests.
const slowRounds = 3

// slowClients compares healthy clients' p99 with and without 1,000 slow clients (heads that never end) and
// one that resets what it asks for, on each protocol.
func slowClients(addr string) error {
	worst := 0.0
	for _, proto := range []string{"h1", "h2", "h3"} {
		var ratios []float64
		for range slowRounds {
			ratio, err := slowRatio(proto, addr)
			if err != nil {
				return err
			}
			ratios = append(ratios, ratio)
		}
		figure("slow_clients_p99_ratio_"+proto, median(ratios))
		worst = max(worst, median(ratios))
	}
	figure("slow_clients_p99_ratio", worst)
	return nil
}

func slowRatio(proto, addr string) (float64, error) {
	before, err := p99(proto, addr)
	if err != nil {
		return 0, err
	}
	stop, err := besiege(proto, addr)
	if err != nil {
		return 0, err
	}
	during, err := p99(proto, addr)
	stop()
	if err != nil {
		return 0, fmt.Errorf("healthy clients among slow ones: %w", err)
	}
	return float64(during) / float64(before), nil
}

// healthy is a client of one connection.
type healthy struct {
	http.RoundTripper
	close func()
}

// clientOf returns a client that speaks one protocol, whatever the name leads to.
func clientOf(proto, addr string) healthy {
	conf := &tls.Config{ServerName: host, InsecureSkipVerify: true}
	if proto == "h3" {
		t := &http3.Transport{TLSClientConfig: conf, Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, addr, c, q)
		}}
		return healthy{t, func() { t.Close() }}
	}
	var p http.Protocols
	p.SetHTTP1(proto == "h1")
	p.SetHTTP2(proto == "h2")
	t := &http.Transport{TLSClientConfig: conf, Protocols: &p, DialContext: func(ctx context.Context, n, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, n, addr)
	}}
	return healthy{t, t.CloseIdleConnections}
}

// get asks once.
func (h healthy) get() error {
	r, _ := http.NewRequest("GET", "https://"+host+"/", nil)
	resp, err := h.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// p99 asks 200 times a second for three seconds.
func p99(proto, addr string) (time.Duration, error) {
	c := clientOf(proto, addr)
	defer c.close()
	var took []time.Duration
	for range 600 {
		began := time.Now()
		if err := c.get(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
		time.Sleep(max(0, 5*time.Millisecond-time.Since(began)))
	}
	slices.Sort(took)
	return took[len(took)*99/100], nil
}

// besiege opens the slow connections, from ten addresses of loopback, and begins to reset.
func besiege(proto, addr string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []io.Closer
	stop = func() {
		cancel()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
	for i := range 1000 {
		from := net.IPv4(127, 0, 1, byte(1+i%10))
		if proto == "h3" {
			if i%100 != 0 {
				continue
			}
			c, err := quic.DialAddr(ctx, addr, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: time.Second})
			if err != nil {
				stop()
				return nil, err
			}
			conns = append(conns, closer(func() error { return c.CloseWithError(0, "") }))
			for range 100 { // half a head on each stream
				if s, err := c.OpenStream(); err == nil {
					_, _ = s.Write([]byte{1, 50, 0})
				}
			}
			continue
		}
		raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext(ctx, "tcp", addr)
		if err != nil {
			stop()
			return nil, err
		}
		c := tls.Client(raw, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{map[string]string{"h1": "http/1.1", "h2": "h2"}[proto]}})
		if err := c.HandshakeContext(ctx); err != nil {
			stop()
			return nil, err
		}
		conns = append(conns, c)
		if proto == "h1" {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
		} else {
			_, _ = io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, c)
			_ = f.WriteSettings()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		}
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			rapidReset(ctx, addr)
		}
	})
	return stop, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// rapidReset asks and takes back on one connection until the server ends it.
func rapidReset(ctx context.Context, addr string) {
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	f := http2.NewFramer(c, c)
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = f.WriteSettings()
	for id := uint32(1); ; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}) != nil || f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			return
		}
		time.Sleep(50 * time.Microsecond)
	}
}
