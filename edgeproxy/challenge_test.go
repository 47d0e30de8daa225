package edgeproxy

import (
	"context"
	"crypto/tls"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/perigee-edge/perigee/edgeproxy/acme"
)

// TestChallenges answers a public CA by handshake and by file, for hosts of functions only, and asks the cluster at a
// bounded rate: strangers can claim to be a CA.
func TestChallenges(t *testing.T) {
	ca := newCA(t)
	var asked atomic.Int64
	other := 0 // hosts that no function answers at
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, ca), func(cfg *Config) {
		cfg.Challenges = func(_ context.Context, host string) []acme.Challenge {
			asked.Add(1)
			if host != testHost {
				other++
			}
			return []acme.Challenge{{Type: acme.TypeHTTP, Host: host, Token: "t1", KeyProof: "t1.proof"}, {Type: acme.TypeTLS, Host: host, Token: "t2", KeyProof: "t2.proof"}}
		}
	})
	run(t, p)
	addr, _ := p.Addrs()
	ask := func(host string) (*tls.Conn, error) {
		return tls.Dial("tcp", addr.String(), &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{acme.Protocol}})
	}
	conn, err := ask(testHost)
	if err != nil {
		t.Fatal(err)
	}
	critical := false // the proof is in an extension that no client may overlook (RFC 8737)
	for _, e := range conn.ConnectionState().PeerCertificates[0].Extensions {
		critical = critical || e.Critical && e.Id.String() == "1.3.6.1.5.5.7.1.31"
	}
	conn.Close()
	if !critical {
		t.Error("the certificate has no proof")
	}
	file := func(host, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Host = host
		rec, _ := send(p, r)
		return rec
	}
	equal(t, "file", file(testHost, challengePath+"t1").Body.String(), "t1.proof")
	if got := file(testHost, challengePath+"t2").Body.String(); got == "t2.proof" {
		t.Error("the proof of one way answers the other")
	}
	if conn, err := ask("stranger.example.com"); err == nil {
		conn.Close()
		t.Error("a host without a function gets a certificate")
	}
	file("stranger.example.com", challengePath+"t1")
	equal(t, "asked for hosts without a function", other, 0)

	refused := false
	for range 100 * askBurst {
		if refused = file(testHost, challengePath+"t1").Body.String() != "t1.proof"; refused {
			break
		}
	}
	if n := asked.Load(); !refused || n < askBurst {
		t.Errorf("the cluster is asked %d times at once, and then no more: %v", n, refused)
	}
}
