package peerlink

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestFigures prints what a hop and a long answer cost over TCP beside UDP: two pairs of nodes in this process, on
// loopback, asked in turns. `make bench-mesh` runs it.
func TestFigures(t *testing.T) {
	if os.Getenv("PERIGEE_FIGURES") == "" {
		t.Skip("`make bench-mesh` measures: PERIGEE_FIGURES is not set")
	}
	const (
		rounds, hopsEach = 20, 500
		workers          = 32
		bulk             = 64 << 20
	)
	reply := make([]byte, 1<<10)
	serve := func(c *Config) {
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(Responder).Accept(perigee.Load{InFlight: 1, Slots: 8})
			_, _ = w.Write(reply)
		})
		c.Control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, bulk))
		})
	}
	m := newMesh(t)
	udp, _ := m.node("udp", nil)
	m.node("by-udp", serve)
	tcp, fence, _ := m.fenced("tcp", func(c *Config) { c.RetryUDP = time.Hour })
	m.fenced("by-tcp", serve)
	fence.up.Store(true)

	type pair struct {
		from *Link
		to   perigee.NodeID
		took []time.Duration
		cpu  time.Duration // of hops, many at once
		rate float64       // of the long answers, the best
	}
	pairs := []*pair{{from: udp, to: "by-udp"}, {from: tcp, to: "by-tcp"}}
	hop := func(p *pair) time.Duration {
		began := time.Now()
		hopOK(t, p.from, p.to, request(t, "GET", "http://hello.example.org/some/path", ""))
		return time.Since(began)
	}
	for round := range rounds + 1 {
		for _, p := range pairs {
			var took []time.Duration
			for range hopsEach {
				took = append(took, hop(p))
			}
			cpu := cpuTime()
			var all sync.WaitGroup
			for range workers {
				all.Go(func() {
					for range hopsEach / workers {
						hop(p)
					}
				})
			}
			all.Wait()
			cpu = cpuTime() - cpu
			if round > 0 { // warm by then
				p.took, p.cpu = append(p.took, took...), p.cpu+cpu
			}
		}
	}
	for range 5 {
		for _, p := range pairs {
			began := time.Now()
			resp, err := p.from.Control(p.to).RoundTrip(request(t, "GET", "http://b/", ""))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); n != bulk || err != nil {
				t.Fatal(n, err)
			}
			_ = resp.Body.Close()
			p.rate = max(p.rate, bulk/1e6/time.Since(began).Seconds())
		}
	}
	figure := func(name string, value float64) { fmt.Printf("FIGURE %s %.2f\n", name, value) }
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	var p50, cpu [2]float64
	for i, name := range []string{"quic", "tcp"} {
		slices.Sort(pairs[i].took)
		p50[i] = us(pairs[i].took[len(pairs[i].took)/2])
		cpu[i] = us(pairs[i].cpu) / float64(rounds*(hopsEach/workers)*workers)
		figure(name+"_hop_us", p50[i])
		figure(name+"_hop_cpu_us", cpu[i])
		figure(name+"_bulk_mb_s", pairs[i].rate)
	}
	figure("tcp_hop_vs_quic_us", p50[1]-p50[0])
	figure("tcp_hop_cpu_vs_quic", cpu[1]/cpu[0])
	figure("tcp_bulk_vs_quic", pairs[1].rate/pairs[0].rate)
	if over := tcp.Over("by-tcp"); over != "tcp" {
		t.Errorf("the second pair went over %q", over)
	}
}
