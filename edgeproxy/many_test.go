package edgeproxy

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/perigee-edge/perigee"
)

// TestTenProxies runs ten nodes in one process: every one is an entry, the function is pinned to one
// of them.
func TestTenProxies(t *testing.T) {
	regions := []string{"fra", "ams", "lhr", "cdg", "wdc", "sjc", "gru", "nrt", "sin", "syd"}
	var nodes []string
	for _, r := range regions {
		nodes = append(nodes, r+"-1")
	}
	w, mesh, ca := newWorld(nodes...), newMesh(), newCA(t)
	t.Cleanup(mesh.wg.Wait)
	locals := map[string]*fakeLocal{}
	proxies := map[string]*Proxy{}
	for _, id := range nodes {
		locals[id] = newLocal(greet)
		proxies[id] = newProxy(t, w, id, locals[id], mesh, withTLS(t, ca))
		mesh.add(perigee.NodeID(id), proxies[id])
		run(t, proxies[id])
	}
	clients := map[string]*http.Client{}
	for _, id := range nodes {
		clients[id] = client(t, proxies[id], ca, true)
	}
	ask := func(want func(entry string) string) {
		t.Helper()
		var wg sync.WaitGroup
		for _, id := range nodes {
			entry := strings.TrimSuffix(id, "-1")
			wg.Go(func() {
				for range 5 {
					resp, err := clients[id].Get("https://" + testHost + "/")
					if err != nil {
						t.Errorf("%s: %v", id, err)
						return
					}
					rc, _ := ReceiptOf(resp.Header)
					resp.Body.Close()
					if rc.Entry != perigee.Region(entry) || string(rc.Region) != want(entry) || resp.StatusCode != 200 {
						t.Errorf("%s: %d, %+v", id, resp.StatusCode, rc)
					}
				}
			})
		}
		wg.Wait()
	}
	ask(func(entry string) string { return entry })
	w.change(func(m *perigee.Manifest) { m.Placement.Pin = []string{"syd"} })
	ask(func(string) string { return "syd" })
	mesh.kill("syd-1")
	for _, id := range nodes {
		resp, body := get(t, clients[id], "https://"+testHost+"/")
		rc := receiptOf(t, resp.Header)
		if id == "syd-1" {
			equal(t, "syd serves itself", resp.StatusCode, 200)
		} else if resp.StatusCode != 503 || !strings.Contains(body, `pin = ["syd"]`) || rc.Reason != ReasonRefused {
			t.Errorf("%s: %d %+v\n%s", id, resp.StatusCode, rc, body)
		}
	}
}

// TestMetricsAreListed compares the metrics with those that docs/metrics.md must explain.
func TestMetricsAreListed(t *testing.T) {
	h := newHops().on("lhr-1", refuses("lhr-1", perigee.RefusedSilent)).on("fra-1", answers(""))
	p := newProxy(t, near(), "wdc-1", failing(nil), h)
	send(p, request("GET", "/", nil))
	sendHop(p, hopRequest())
	p.metrics.certs.WithLabelValues("issued").Inc()
	r := request("GET", "/", nil)
	r.Host = "other.example.com"
	send(p, r)
	text := metricsText(p)
	for name, line := range map[string]string{
		"requests":  `perigee_edgeproxy_requests_total{start="warm",status="2xx"} 1`,
		"not found": `perigee_edgeproxy_requests_total{start="none",status="4xx"} 1`,
		"seconds":   `perigee_edgeproxy_request_seconds_count{where="hop"} 1`,
		"nowhere":   `perigee_edgeproxy_request_seconds_count{where="nowhere"} 1`,
		"hops":      `perigee_edgeproxy_hops_total{outcome="silent"} 1`,
		"hops ok":   `perigee_edgeproxy_hops_total{outcome="ok"} 1`,
		"served":    `perigee_edgeproxy_served_hops_total{outcome="not-allowed"} 1`,
		"refusals":  `perigee_edgeproxy_refusals_total{cause="unknown"} 1`,
		"retries":   `perigee_edgeproxy_retries_total 1`,
		"in flight": `perigee_edgeproxy_inflight_requests 0`,
		"certs":     `perigee_edgeproxy_certificates_total{outcome="issued"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s: no %s in\n%s", name, line, text)
		}
	}
}
