package node

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/internal/identity"
)

// TestTicketScope gives a host that not all nodes may answer keys of its own.
func TestTicketScope(t *testing.T) {
	fn := func(name, host, path string, residency ...string) *perigee.Function {
		m := perigee.Manifest{Name: name, Routes: []perigee.Route{{Host: host, Path: path}}, Placement: perigee.Policy{Residency: residency}}
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: m}}
	}
	v := issuerView(nil, fn("a", "a.fn.example", "/"), fn("b", "b.fn.example", "/", "eu"), fn("c", "c.example.com", "/"), fn("d", "c.example.com", "/d", "eu"))
	for host, want := range map[string]string{"a.fn.example": perigee.AllHosts, "b.fn.example": "b.fn.example", "c.example.com": "c.example.com"} {
		if got := ticketScope(v.Desired, host); got != want {
			t.Errorf("keys of %s: %q, want %q", host, got, want)
		}
	}
}

// TestTicketsEnd uses keys that nobody replaced until their end, and each node's own from then on.
func TestTicketsEnd(t *testing.T) {
	v := issuerView(nil, &perigee.Function{Name: "a", Live: &perigee.Revision{Manifest: perigee.Manifest{Name: "a", Routes: []perigee.Route{{Host: "a.fn.example", Path: "/"}}}}})
	k := &tickets{view: func() *perigee.View { return v }}
	set := func(left time.Duration) {
		k.open.Store(&map[string]openTickets{perigee.AllHosts: {&perigee.WebEntry{Expires: time.Now().Add(left)}, [][32]byte{{1}}}})
	}
	set(time.Hour)
	if len(k.forHost("a.fn.example")) != 1 || k.forHost("b.fn.example") != nil {
		t.Error("keys for a host that functions answer at, and for no other")
	}
	set(-time.Second)
	if k.forHost("a.fn.example") != nil {
		t.Error("keys that have ended")
	}
}

// TestTicketsRotate keeps the last keys for sessions under way, and none longer.
func TestTicketsRotate(t *testing.T) {
	var keys [][]byte
	for i := range 5 {
		keys = rotated(keys, []byte{byte(i)})
	}
	if len(keys) != ticketKeep || keys[0][0] != 4 || keys[1][0] != 3 || keys[2][0] != 2 {
		t.Errorf("keys after five turns: %v", keys)
	}
}

// TestTicketsLeaked notices keys that a node has which may not have them: it is outside, or was removed.
func TestTicketsLeaked(t *testing.T) {
	sealed := func(ids ...perigee.NodeID) *perigee.WebEntry { return sealedTo(t, "b.fn.example", ids...) }
	fn := &perigee.Function{Name: "b", Live: &perigee.Revision{Manifest: perigee.Manifest{
		Name: "b", Routes: []perigee.Route{{Host: "b.fn.example", Path: "/"}}, Placement: perigee.Policy{Residency: []string{"eu"}},
	}}}
	v := issuerView(map[perigee.NodeID]perigee.NodeState{"i-fra-1": perigee.NodeAlive, "n-ams-1": perigee.NodeAlive, "n-wdc-1": perigee.NodeAlive}, fn)
	if leaked(v, sealed("i-fra-1", "n-ams-1")) {
		t.Error("keys of a host in the EU are in the EU, and count as leaked")
	}
	if !leaked(v, sealed("i-fra-1", "n-wdc-1")) {
		t.Error("keys of a host in the EU are in wdc, and count as safe")
	}
	d := *v.Desired
	d.Revoked = map[perigee.NodeID]bool{"n-ams-1": true}
	v.Desired = perigee.NewDesired(d)
	if !leaked(v, sealed("i-fra-1", "n-ams-1")) {
		t.Error("keys that a removed node has count as safe")
	}
}

// sealedTo is something that is sealed to nodes.
func sealedTo(t *testing.T, name string, ids ...perigee.NodeID) *perigee.WebEntry {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e := &perigee.WebEntry{WebName: perigee.WebName{Item: perigee.WebTickets, Name: name}}
	var to []identity.Recipient
	for _, id := range ids {
		to = append(to, identity.Recipient{Node: id, Key: key.PublicKey().Bytes()})
	}
	env, err := identity.Seal([]byte("keys"), to, identity.SealContext{Kind: "web-tickets", Name: name, Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	if e.Sealed, err = env.Marshal(); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestOwed hands on to a node that came later, but not what a removed node knows, if a CA can make another.
func TestOwed(t *testing.T) {
	s := newSingle(t)
	v := issuerView(map[perigee.NodeID]perigee.NodeState{"n-fra-2": perigee.NodeAlive})
	v.Observed.Nodes[s.ID()] = &perigee.Peer{NodeClaims: perigee.NodeClaims{ID: s.ID(), Region: "fra", Roles: []perigee.Role{perigee.RoleIssuer}}, State: perigee.NodeAlive}
	for _, p := range v.Observed.Nodes {
		p.Sealing = make([]byte, 32)
	}
	client, err := acme.New(acme.Config{Directory: "https://ca.example/dir"})
	if err != nil {
		t.Fatal(err)
	}
	known := sealedTo(t, "a.fn.example", s.ID(), "n-fra-9")
	known.Item = perigee.WebCertificate
	for _, c := range []struct {
		removed perigee.NodeID
		client  *acme.Client
		want    int
	}{{"n-fra-8", client, 1}, {"n-fra-9", client, 0}, {"n-fra-9", nil, 1}} {
		d := *v.Desired
		d.Web, d.Revoked = map[perigee.WebName]*perigee.WebEntry{known.WebName: known}, map[perigee.NodeID]bool{c.removed: true}
		v.Desired = perigee.NewDesired(d)
		s.issuer.client.Store(c.client)
		if got := len(s.issuer.owed(v)); got != c.want {
			t.Errorf("%s was removed: %d things to hand on, want %d", c.removed, got, c.want)
		}
	}
}

// TestGiver has an issuer that can open something hand it on, also to the one responsible that came back after it
// was sealed.
func TestGiver(t *testing.T) {
	v := issuerView(map[perigee.NodeID]perigee.NodeState{"i-fra-1": perigee.NodeAlive, "i-wdc-1": perigee.NodeAlive, "i-syd-1": perigee.NodeDead})
	responsible := map[perigee.NodeID]bool{}
	for i := range 20 {
		name := fmt.Sprintf("h%d.example.com", i)
		responsible[(&issuer{}).responsible(v, name)] = true
		env, err := identity.ParseEnvelope(sealedTo(t, name, "i-fra-1", "i-syd-1").Sealed)
		if err != nil {
			t.Fatal(err)
		}
		if got := giver(v, name, env); got != "i-fra-1" {
			t.Errorf("%s is sealed to an issuer that is up, and %q hands it on", name, got)
		}
	}
	if !responsible["i-wdc-1"] {
		t.Error("no name of the one that has nothing")
	}
}
