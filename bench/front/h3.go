package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// h3load measures HTTP/3: 4 connections with 8 requests in flight on each, as h2load does HTTP/2.
func h3load(addr string) (float64, error) {
	const conns, inFlight = 4, 8
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var done atomic.Int64
	var bad atomic.Pointer[error]
	var wg sync.WaitGroup
	stop := time.Now().Add(window * time.Second)
	for range conns {
		conn, err := quic.DialAddr(ctx, addr, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
		if err != nil {
			return 0, err
		}
		defer conn.CloseWithError(0, "")
		cc := (&http3.Transport{DisableCompression: true}).NewClientConn(conn)
		for range inFlight {
			wg.Go(func() {
				for time.Now().Before(stop) {
					r, _ := http.NewRequestWithContext(ctx, "GET", "https://"+host+"/", nil)
					resp, err := cc.RoundTrip(r)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if err == nil && resp.StatusCode != 200 {
							err = fmt.Errorf("status %d", resp.StatusCode)
						}
					}
					if err != nil {
						bad.Store(&err)
						return
					}
					done.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if err := bad.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / window, nil
}
