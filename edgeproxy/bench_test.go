package edgeproxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

// discard is a response writer that costs nothing.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func quiet(c *Config) { c.Logger, c.Receipt = slog.New(slog.DiscardHandler), ReceiptRegion }

func benchRequest() *http.Request {
	r := request("GET", "/path?a=1", nil)
	for _, name := range []string{"Accept", "Accept-Language", "User-Agent", "Cookie", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Referer", "Accept-Encoding"} {
		r.Header.Set(name, "some ordinary value")
	}
	return r
}

func benchServe(b *testing.B, p *Proxy) {
	r := benchRequest()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &discard{http.Header{}}
		for pb.Next() {
			clear(w.h)
			p.ServeHTTP(w, r)
		}
	})
}

// BenchmarkServeHere is all that the front adds to a request that runs on the node that took it.
func BenchmarkServeHere(b *testing.B) {
	local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Length"] = []string{"5"}
		_, _ = io.WriteString(w, "hello")
	})
	benchServe(b, newProxy(b, newWorld("fra-1", "wdc-1", "syd-1"), "fra-1", local, newHops(), quiet))
}

// BenchmarkServeAway is what the front adds to a request that runs on a peer, without the mesh.
func BenchmarkServeAway(b *testing.B) {
	h := &fixedHops{}
	benchServe(b, newProxy(b, newWorld("wdc-1:absent", "fra-1", "syd-1"), "wdc-1", failing(nil), h, quiet))
}

type fixedHops struct{ fakeHops }

func (h *fixedHops) RoundTrip(_ context.Context, _ perigee.NodeID, _ *http.Request) (*http.Response, perigee.Load, error) {
	return response(200, 5, strings.NewReader("hello")), perigee.Load{InFlight: 1, Slots: 8}, nil
}

// BenchmarkNotFound is a request for an unknown host.
func BenchmarkNotFound(b *testing.B) {
	p := newProxy(b, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), quiet)
	r := benchRequest()
	r.Host = "other.example.com"
	b.ReportAllocs()
	w := &discard{http.Header{}}
	for b.Loop() {
		p.ServeHTTP(w, r)
	}
}

// BenchmarkHTTPS is a whole request over a connection that stands: h1 and h2, client included.
func BenchmarkHTTPS(b *testing.B) {
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		b.Run(name, func(b *testing.B) {
			ca := newCA(b)
			local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Content-Length"] = []string{"5"}
				_, _ = io.WriteString(w, "hello")
			})
			p := newProxy(b, newWorld("fra-1"), "fra-1", local, newHops(), quiet, withTLS(b, ca))
			defer run(b, p)()
			cl := client(b, p, ca, h2)
			cl.Transport.(*http.Transport).MaxIdleConnsPerHost = 100
			get(b, cl, "https://"+testHost+"/")
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := cl.Get("https://" + testHost + "/")
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}

// BenchmarkReceipt writes a full receipt.
func BenchmarkReceipt(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = fullReceipt.Format(ReceiptFull)
	}
}
