package node

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// TestRenewExpired brings back a cluster that was off for longer than certificates live: the signer
// renews its own certificate, then the other node's, with a token and a name of before.
func TestRenewExpired(t *testing.T) {
	t.Parallel()
	const month = identity.NodeLifetime
	dir := Dir(filepath.Join(t.TempDir(), "data"))
	founded, err := found(FoundConfig{Dir: dir, Region: "fra"}, time.Now().Add(-2*month))
	if err != nil {
		t.Fatal(err)
	}
	s := &single{t: t, dir: dir, operator: founded.Operator}
	s.open()
	if time.Until(s.m.identity.Expires()) > 0 {
		t.Fatal("the certificate has not expired")
	}
	stop := s.run()
	fresh := func(n *Node) bool { return time.Until(n.m.identity.Expires()) > month-time.Hour }
	wait(t, 5*time.Second, "the signer has renewed its own", func() bool { return fresh(s.Node) && s.ready() == nil })

	cfg := joiner(t, s.token(node("wdc")))
	if _, err := Join(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	m, _, err := cfg.Dir.load()
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.m.signer.IssueNode(s.m.genesis.Cluster, m.identity.Claims(), m.key(), time.Now().Add(-month-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Dir.saveChain(old); err != nil {
		t.Fatal(err)
	}
	second := singleConfig(t, cfg.Dir)
	second.Socket = cfg.Socket
	wdc, err := New(second)
	if err != nil {
		t.Fatal(err)
	}
	if err := wdc.ready(); err == nil || fresh(wdc) {
		t.Errorf("with an expired certificate: %v", err)
	}
	stopWDC := runNode(t, wdc)
	wait(t, 10*time.Second, "the other node has a new certificate and is back", func() bool {
		p := s.View().Observed.Nodes["wdc-1"]
		return fresh(wdc) && wdc.ready() == nil && p != nil && p.State == perigee.NodeAlive
	})

	// What was renewed is what is on the disk.
	if err := stopWDC(); err != nil {
		t.Fatal(err)
	}
	if m, _, err = cfg.Dir.load(); err != nil || !m.identity.Expires().Equal(wdc.m.identity.Expires()) {
		t.Errorf("on the disk: %v, %v", m.identity.Expires(), err)
	}

	// A removed node's certificate is not renewed, and neither is one for a name that another has.
	if _, err := s.person().Revoke(t.Context(), record.Revoke{Node: "wdc-1"}); err != nil {
		t.Fatal(err)
	}
	r := renewer{dir: cfg.Dir, m: m, gossip: s.gossip, seeds: []string{s.cfg.Socket.LocalAddr().String()}, log: s.log}
	wantErr(t, "a removed node", r.renew(t.Context()), "was removed from the cluster", "join again")
	thief, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	claims := s.Claims()
	stolen, err := s.m.signer.IssueNode(s.m.genesis.Cluster, claims, thief.Public().(ed25519.PublicKey), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.m.identity, err = identity.NewNode(s.m.genesis.Cluster, s.m.identity.Root(), thief, stolen); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "a name that is another's", r.renew(t.Context()), "the name fra-1 belongs to another machine's key")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if wait := r.look(t.Context()); wait != renewEvery {
		t.Errorf("a young certificate is looked at again after %v", wait)
	}
}

// TestRenewRefusesLies: what comes back must be this node's certificate, and younger.
func TestRenewRefusesLies(t *testing.T) {
	s := newSingle(t)
	before := s.m.identity.Expires()
	issue := func(claims perigee.NodeClaims, pub ed25519.PublicKey, at time.Time) [][]byte {
		t.Helper()
		chain, err := s.m.signer.IssueNode(s.m.genesis.Cluster, claims, pub, at)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	other := s.Claims()
	other.ID = "other"
	stranger, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		chain [][]byte
		words string
	}{
		"another name": {issue(other, s.m.key(), time.Now().Add(time.Minute)), "names node other"},
		"another key":  {issue(s.Claims(), stranger.Public().(ed25519.PublicKey), time.Now().Add(time.Minute)), "another key"},
		"older":        {issue(s.Claims(), s.m.key(), time.Now().Add(-time.Minute)), "no younger"},
		"junk":         {[][]byte{{1}}, "came back"},
		"nothing":      {nil, "came back"},
	} {
		wantErr(t, what, s.renewer.use(c.chain), c.words)
	}
	if m, _, err := s.dir.load(); err != nil || !m.identity.Expires().Equal(before) || !s.m.identity.Expires().Equal(before) {
		t.Errorf("the certificate changed: %v", err)
	}
	if err := s.renewer.use(issue(s.Claims(), s.m.key(), time.Now().Add(time.Minute))); err != nil || !s.m.identity.Expires().After(before) {
		t.Errorf("the right one: %v", err)
	}
	if s.renewer.join.renewals.Tokens() < joinBurst {
		t.Error("a node's own renewals are limited")
	}
	s.m.signer = nil
	s.renewer.seeds = []string{"no-port"}
	wantErr(t, "no signer", s.renewer.renew(t.Context()), "no signer renewed it", "no-port")
	s.renewer.seeds = nil
	wantErr(t, "no signer is known", s.renewer.renew(t.Context()), "none is known")
}

// TestWebSign: certificates are made for hosts that a function answers at, and nothing else; of
// several signers one that is silent costs little.
func TestWebSign(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.declare(s.pack("site", guest("1"), perigee.Policy{}))
	web := newWebSigner(s.Node)
	h := web.handler()
	request := func(names ...string) []byte {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := request("site.localhost")
	for what, c := range map[string]struct {
		body   string
		status int
		words  string
	}{
		"right":           {string(good), 200, "BEGIN CERTIFICATE"},
		"unknown host":    {string(request("other.localhost")), 403, "no function answers"},
		"one of them":     {string(request("site.localhost", "other.localhost")), 403, "no function answers"},
		"no name":         {string(request()), 403, "no DNS name"},
		"junk":            {"junk", 403, ""},
		"changed":         {string(good[:len(good)-1]) + "x", 403, ""},
		"too large":       {strings.Repeat("x", maxCSR+1), 400, "too large"},
		"nothing is sent": {"", 403, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/web/sign", strings.NewReader(c.body)))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.words) {
			t.Errorf("%s: %d %s, want %d and %q", what, w.Code, w.Body, c.status, c.words)
		}
	}
	limited := false
	for range 10 * signRate {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/web/sign", strings.NewReader("junk")))
		limited = limited || w.Code == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("any number of requests is looked at")
	}

	// As a node that has to ask.
	m := *s.m
	m.web = nil
	asks := *web
	asks.m = &m
	var asked []perigee.NodeID
	asks.nearest = func([]perigee.NodeID) []perigee.NodeID {
		return []perigee.NodeID{"silent", "liar", "fra-1", "spare", "more"}
	}
	asks.control = func(id perigee.NodeID) http.RoundTripper {
		asked = append(asked, id)
		switch id {
		case "silent":
			return peer(func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() })
		case "liar":
			return says(http.StatusForbidden, []byte("not today"))
		}
		return says(http.StatusOK, []byte("a chain"))
	}
	_, err := asks.sign(t.Context(), good)
	if err == nil || len(asked) != 1 {
		t.Errorf("there is one signer, and it is silent: %v, asked %v", err, asked)
	}
	w := httptest.NewRecorder()
	asks.handler().ServeHTTP(w, httptest.NewRequest("POST", "/web/sign", strings.NewReader(string(good))))
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "not a signer") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	asks.control = func(perigee.NodeID) http.RoundTripper {
		return peer(func(*http.Request) (*http.Response, error) { return nil, errors.New("unreachable") })
	}
	_, err = asks.sign(t.Context(), good)
	wantErr(t, "no signer answers", err, "silent: unreachable")
}
