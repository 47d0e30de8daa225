package identity

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestNode(t *testing.T) {
	l := newLab(t)
	key := must(NewKey())(t)
	claims := claimsFor("fra-1")
	claims.Zone = "b"
	chain := l.issue(claims, key, 0)
	n := must(NewNode(l.cluster, l.root.Cert(), key, chain))(t)
	if n.Cluster() != l.cluster || !n.Root().Equal(l.root.Cert()) || !n.Key().Equal(key) || !sameClaims(n.Claims(), claims) {
		t.Errorf("%v: cluster %s, claims %+v", n, n.Cluster(), n.Claims())
	}
	if want := l.now.Add(NodeLifetime).Truncate(time.Second); !n.Expires().Equal(want) {
		t.Errorf("expires %v, want %v", n.Expires(), want)
	}
	if !slices.EqualFunc(n.Chain(), chain, bytes.Equal) {
		t.Error("another chain")
	}
	chain[0][len(chain[0])-1] ^= 1
	key[0] ^= 1
	if slices.EqualFunc(n.Chain(), chain, bytes.Equal) || n.Key().Equal(key) {
		t.Error("the node kept the caller's memory")
	}
	late := l.node("fra-2", 300*day)
	if !late.Expires().Before(l.now) {
		t.Errorf("expires %v", late.Expires())
	}
}

func TestNewNodeRefuses(t *testing.T) {
	l, other := newLab(t), newLab(t)
	key := must(NewKey())(t)
	chain := l.issue(claimsFor("n1"), key, 0)
	web := must(NewWebRoot(l.cluster, l.now))(t)
	_, err := NewNode(l.cluster, nil, key, chain)
	wantError(t, err, "set up node identity", "no root certificate")
	_, err = NewNode(l.cluster, other.root.Cert(), key, chain)
	wantError(t, err, "root of cluster "+string(other.cluster))
	_, err = NewNode(l.cluster, web.Cert(), key, chain)
	wantError(t, err, "not the root of a mesh")
	_, err = NewNode(l.cluster, l.root.Cert(), key[:63], chain)
	wantError(t, err, "key of 63 bytes")
	_, err = NewNode(l.cluster, l.root.Cert(), must(NewKey())(t), chain)
	wantError(t, err, "node n1 is for another key")
	_, err = NewNode(l.cluster, l.root.Cert(), key, chain[:1])
	wantError(t, err, "not signed by this cluster's CA")
	_, err = NewNode(other.cluster, other.root.Cert(), key, chain)
	wantError(t, err, "node n1 belongs to cluster "+string(l.cluster))
}

func TestSetChainRefuses(t *testing.T) {
	l := newLab(t)
	n := l.node("n1", 0)
	before := n.Chain()
	wantError(t, n.SetChain(l.issue(claimsFor("n2"), n.Key(), 0)), "it names node n2, this is n1")
	wantError(t, n.SetChain(l.issue(claimsFor("n1"), must(NewKey())(t), 0)), "for another key")
	wantError(t, n.SetChain(newLab(t).issue(claimsFor("n1"), n.Key(), 0)), "belongs to cluster")
	wantError(t, n.SetChain(nil), "chain of 0")
	if !slices.EqualFunc(n.Chain(), before, bytes.Equal) {
		t.Error("a refused chain is in use")
	}
}

// TestNodeIsSharedSafely is for the race detector: a renewal amid handshakes and readers.
func TestNodeIsSharedSafely(t *testing.T) {
	l := newLab(t)
	n, peer := l.node("n1", 0), l.node("n2", 0)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 10 {
				if err := n.SetChain(l.issue(claimsFor("n1"), n.Key(), time.Duration(i)*time.Hour)); err != nil {
					t.Errorf("%v", err)
				}
				if n.Claims().ID != "n1" || len(n.Chain()) != 2 || n.Expires().IsZero() {
					t.Error("half a chain")
				}
			}
		})
	}
	for range 10 {
		if r := handshake(t, n.PeerClientTLS(alpn, "n2", nil), peer.PeerServerTLS([]string{alpn}, nil)); !r.ok() {
			t.Error(r.clientErr, r.serverErr)
		}
	}
	wg.Wait()
}
