package peerlink

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// BenchmarkHop sends requests with a usual head and answers with 1 KiB; both ends are in this process.
func BenchmarkHop(b *testing.B) {
	reply := make([]byte, 1<<10)
	m := newMesh(b)
	quiet := func(c *Config) {
		c.Logger = slog.New(slog.DiscardHandler)
		c.AcceptFloor, c.DialTimeout = time.Minute, time.Minute // a busy machine stalls for longer than a good one would wait
	}
	a, _ := m.node("a", quiet)
	m.node("b", func(c *Config) {
		quiet(c)
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(Responder).Accept(perigee.Load{InFlight: 1, Slots: 8})
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write(reply)
		})
	})
	for _, workers := range []int{1, 32} {
		b.Run(fmt.Sprintf("inflight=%d", workers), func(b *testing.B) {
			b.ReportAllocs()
			cpu := cpuTime()
			var wg sync.WaitGroup
			next := make(chan struct{}, workers)
			for range workers {
				wg.Go(func() {
					for range next {
						hopOnce(b, a)
					}
				})
			}
			b.ResetTimer()
			for range b.N {
				next <- struct{}{}
			}
			close(next)
			wg.Wait()
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

func hopOnce(b *testing.B, l *Link) {
	r, err := http.NewRequestWithContext(b.Context(), "GET", "http://hello.example.org/some/path?with=query", nil)
	if err != nil {
		b.Error(err)
		return
	}
	r.Header.Set("User-Agent", "curl/8.5.0")
	r.Header.Set("Accept", "*/*")
	r.Header.Set("Perigee-Hop-Function", "hello")
	r.Header.Set("Perigee-Hop-Client", "203.0.113.9")
	resp, err := l.RoundTripHop("b", r)
	if err != nil {
		b.Error(err)
		return
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != 1<<10 || err != nil {
		b.Error(n, err)
	}
	_ = resp.Body.Close()
}

// cpuTime returns the processor time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBulk reads one long response, as the fetching of a bundle does.
func BenchmarkBulk(b *testing.B) {
	const size = 64 << 20
	m := newMesh(b)
	quiet := func(c *Config) { c.Logger = slog.New(slog.DiscardHandler) }
	a, _ := m.node("a", quiet)
	m.node("b", func(c *Config) {
		quiet(c)
		c.Control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, size))
		})
	})
	b.SetBytes(size)
	cpu := cpuTime()
	for b.Loop() {
		r, err := http.NewRequestWithContext(b.Context(), "GET", "http://b/", nil)
		if err != nil {
			b.Fatal(err)
		}
		resp, err := a.Control("b").RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric((cpuTime()-cpu).Seconds()/(float64(b.N)*size/(1<<30)), "cpu-s/GiB")
}
