package peerlink

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

func TestRevocation(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", func(c *Config) { c.Allow = nil }) // a does not know that it is revoked
	ended := make(chan struct{})
	b, _ := m.node("b", hops(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stall" {
			stall(ended)(w, r)
			return
		}
		accepting(w, r)
	}))
	hopOK(t, a, "b", request(t, "GET", "http://f/", ""))
	resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/stall", ""))
	if err != nil {
		t.Fatal(err)
	}
	b.Recheck()
	if !b.Connected("a") {
		t.Fatal("recheck closed a connection that is allowed")
	}
	m.revoke("a")
	b.Recheck()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, ErrIdentityRefused) {
		t.Errorf("request under way: %v", err)
	}
	<-ended
	eventually(t, "connections close", func() bool { return !b.Connected("a") && !a.Connected("b") })
	for range 2 { // the second may be told by the backoff
		_, err = a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
		var he *perigee.HopError
		if !errors.As(err, &he) || he.Code != perigee.RefusedUnreachable || !errors.Is(err, ErrIdentityRefused) {
			t.Errorf("after revocation: %v", err)
		}
	}
	if _, err := a.Control("b").RoundTrip(request(t, "GET", "http://b/", "")); !errors.Is(err, ErrIdentityRefused) {
		t.Errorf("control after revocation: %v", err)
	}
}

func TestRevokedPeerIsNotDialled(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	m.node("b", hops(accepting))
	m.revoke("b")
	_, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	var he *perigee.HopError
	if !errors.As(err, &he) || he.Code != perigee.RefusedUnreachable || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("got %v", err)
	}
}

func TestWrongCluster(t *testing.T) {
	m, other := newMesh(t), newMesh(t)
	a, _ := m.node("a", nil)
	stranger, _ := other.node("s", hops(accepting))
	m.setAddr("s", stranger.Addr())
	_, err := a.RoundTripHop("s", request(t, "GET", "http://f/", ""))
	var he *perigee.HopError
	if !errors.As(err, &he) || he.Code != perigee.RefusedUnreachable || !strings.Contains(err.Error(), "this side refused the node's certificate") {
		t.Errorf("got %v", err)
	}
}

func TestWrongNodeAtAddress(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	b, _ := m.node("b", hops(accepting))
	m.setAddr("c", b.Addr())
	_, err := a.RoundTripHop("c", request(t, "GET", "http://f/", ""))
	if err == nil || !strings.Contains(err.Error(), "node b answered") {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", func(c *Config) { c.DialTimeout = 50 * time.Millisecond })
	m.setAddr("gone", netip.MustParseAddrPort("127.0.0.1:9"))
	for _, id := range []perigee.NodeID{"gone", "unknown"} {
		r := request(t, "POST", "http://f/", "body")
		_, err := a.RoundTripHop(id, r)
		var he *perigee.HopError
		if !errors.As(err, &he) || he.Code != perigee.RefusedUnreachable || he.Err == nil {
			t.Errorf("%s: got %v", id, err)
		}
		if b, _ := io.ReadAll(r.Body); string(b) != "body" {
			t.Errorf("%s: body touched", id)
		}
	}
}

func TestHopsNotOffered(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	m.node("b", nil)
	_, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	if err == nil || !strings.Contains(err.Error(), "does not offer this protocol") {
		t.Errorf("got %v", err)
	}
}

func TestJoin(t *testing.T) {
	m := newMesh(t)
	b, _ := m.node("b", func(c *Config) {
		c.Join = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			cs, ok := TLSFrom(r.Context())
			if _, isPeer := PeerFrom(r.Context()); isPeer || !ok {
				t.Error("a joiner is no peer and has a TLS state")
			}
			if _, isPerson := PersonFrom(r.Context()); isPerson {
				t.Error("a joiner is no person")
			}
			key, err := cs.ExportKeyingMaterial(identity.ExporterLabel, nil, 32)
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(key)
		})
	})
	var seen *x509.Certificate
	c, err := Dial(t.Context(), b.Addr().String(), identity.JoinClientTLS(ALPNJoin, func(root *x509.Certificate) error {
		seen = root
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := c.RoundTrip(request(t, "POST", "http://b/join", "csr"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := readBody(t, resp)
	cs := c.TLS()
	ours, err := cs.ExportKeyingMaterial(identity.ExporterLabel, nil, 32)
	if err != nil || !bytes.Equal(ours, []byte(theirs)) {
		t.Errorf("exporters differ: %x, %x, %v", ours, theirs, err)
	}
	if !seen.Equal(m.root()) {
		t.Error("check did not see the root")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.RoundTrip(request(t, "GET", "http://b/", "")); err == nil {
		t.Error("round trip after close")
	}
}

func TestJoinRefusedByCheck(t *testing.T) {
	m := newMesh(t)
	b, _ := m.node("b", func(c *Config) { c.Join = http.NotFoundHandler() })
	_, err := Dial(t.Context(), b.Addr().String(), identity.JoinClientTLS(ALPNJoin, func(*x509.Certificate) error { return errors.New("another cluster") }))
	if err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("got %v", err)
	}
}

func TestAdmin(t *testing.T) {
	m := newMesh(t)
	b, _ := m.node("b", func(c *Config) {
		c.Admin = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, ok := PersonFrom(r.Context())
			if _, isPeer := PeerFrom(r.Context()); isPeer || !ok {
				t.Error("a person is no peer and has a key")
			}
			_, _ = w.Write(key)
		})
	})
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := identity.PersonClientTLS(ALPNAdmin, key, m.root(), m.cluster)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), b.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := (&http.Client{Transport: c}).Get("http://b/status")
	if err != nil {
		t.Fatal(err)
	}
	if got := readBody(t, resp); !bytes.Equal([]byte(got), key.Public().(ed25519.PublicKey)) {
		t.Errorf("person %x", got)
	}
}

// TestRefusalComesWithFirstRoundTrip dials protocols that want a certificate without one that fits.
func TestRefusalComesWithFirstRoundTrip(t *testing.T) {
	m, other := newMesh(t), newMesh(t)
	b, _ := m.node("b", func(c *Config) {
		c.Hops, c.Admin = http.HandlerFunc(accepting), http.NotFoundHandler()
	})
	anonymous := func(alpn string) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13}
	}
	foreign := other.identity("s").PeerClientTLS(ALPNPeer, "", nil)
	foreign.VerifyConnection = nil
	for name, conf := range map[string]*tls.Config{
		"hops without certificate":      anonymous(ALPNPeer),
		"control without certificate":   anonymous(ALPNControl),
		"admin without certificate":     anonymous(ALPNAdmin),
		"hops as node of other cluster": foreign,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Dial(t.Context(), b.Addr().String(), conf)
			if err == nil { // else the refusal was quick
				defer c.Close()
				_, err = c.RoundTrip(request(t, "GET", "http://b/", ""))
			}
			if !errors.Is(err, ErrIdentityRefused) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDialErrors(t *testing.T) {
	m := newMesh(t)
	b, _ := m.node("b", nil)
	conf := identity.JoinClientTLS(ALPNJoin, func(*x509.Certificate) error { return nil })
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, tt := range []struct {
		name, addr, want string
		ctx              context.Context
	}{
		{"not offered", b.Addr().String(), "does not offer this protocol", t.Context()},
		{"no port", "127.0.0.1", "missing port", t.Context()},
		{"bad port", "localhost:http3", "not a number", t.Context()},
		{"nobody", "127.0.0.1:9", "UDP port open", short},
	} {
		if c, err := Dial(tt.ctx, tt.addr, conf); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v %v", tt.name, c, err)
		}
	}
	if _, err := Dial(t.Context(), fmt.Sprintf("localhost:%d", b.Addr().Port()), conf); err == nil || !strings.Contains(err.Error(), "does not offer") {
		t.Errorf("by name: %v", err)
	}
}

func TestGuestLimits(t *testing.T) {
	m := newMesh(t)
	b, _ := m.node("b", func(c *Config) {
		c.MaxGuests = 8 // 2 from one place
		c.Join = http.HandlerFunc(stallUntilDone)
	})
	conf := identity.JoinClientTLS(ALPNJoin, func(*x509.Certificate) error { return nil })
	dial := func() *Client {
		t.Helper()
		c, err := Dial(t.Context(), b.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	first := dial()
	for range guestStreams {
		resp, err := first.RoundTrip(request(t, "GET", "http://b/", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	_, err := first.RoundTrip(request(t, "GET", "http://b/", ""))
	var se *StreamError
	if !errors.As(err, &se) || se.Code != ResetOverloaded {
		t.Errorf("one stream more: %v", err)
	}
	second := dial()
	resp, err := second.RoundTrip(request(t, "GET", "http://b/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := dial().RoundTrip(request(t, "GET", "http://b/", "")); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "too many connections") {
		t.Errorf("one connection more: %v", err)
	}
	_ = second.Close()
	eventually(t, "place for another", func() bool {
		resp, err := dial().RoundTrip(request(t, "GET", "http://b/", ""))
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
}

func stallUntilDone(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}
