package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/placement"
)

// issuerView is a cluster of nodes, each "id" or "id:state"; those whose id begins with "i" are issuers.
func issuerView(nodes map[perigee.NodeID]perigee.NodeState, functions ...*perigee.Function) *perigee.View {
	v := &perigee.View{Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}}}
	for id, state := range nodes {
		p := &perigee.Peer{NodeClaims: perigee.NodeClaims{ID: id, Region: perigee.Region(id[2:5])}, State: state}
		if id[0] == 'i' {
			p.Roles = []perigee.Role{perigee.RoleIssuer}
		}
		v.Observed.Nodes[id] = p
	}
	d := perigee.Desired{Domain: "fn.example", Functions: map[string]*perigee.Function{}, Regions: perigee.BuiltinRegions()}
	for _, fn := range functions {
		d.Functions[fn.Name] = fn
	}
	v.Desired = perigee.NewDesired(d)
	return v
}

// TestResponsible spreads names over the issuers that are up, and moves only those of one that dies.
func TestResponsible(t *testing.T) {
	nodes := map[perigee.NodeID]perigee.NodeState{
		"i-fra-1": perigee.NodeAlive, "i-wdc-1": perigee.NodeSuspect, "i-syd-1": perigee.NodeAlive,
		"i-ams-1": perigee.NodeDead, "n-fra-2": perigee.NodeAlive,
	}
	s, before, count := &issuer{}, map[string]perigee.NodeID{}, map[perigee.NodeID]int{}
	for i := range 300 {
		name := fmt.Sprintf("h%d.example.com", i)
		before[name] = s.responsible(issuerView(nodes), name)
		count[before[name]]++
	}
	for _, id := range []perigee.NodeID{"i-fra-1", "i-wdc-1", "i-syd-1"} {
		if count[id] < 60 {
			t.Errorf("names per issuer: %v", count)
		}
	}
	if len(count) != 3 {
		t.Errorf("names per issuer: %v", count)
	}
	nodes["i-wdc-1"] = perigee.NodeLeft
	for name, id := range before {
		if now := s.responsible(issuerView(nodes), name); now != id && id != "i-wdc-1" {
			t.Errorf("%s moved from %s to %s", name, id, now)
		}
	}
	if id := s.responsible(issuerView(nil), "a.example.com"); id != "" {
		t.Errorf("nobody is up, and %q is responsible", id)
	}
}

// TestOrderPace runs a name's orders through a day in which all fail.
func TestOrderPace(t *testing.T) {
	s, o, now := &issuer{}, &order{}, time.Unix(1e9, 0)
	orders := 0
	for end := now.Add(23 * time.Hour); now.Before(end); {
		wait := s.dueLocked(o, nil, now)
		if wait > 0 {
			now = now.Add(wait)
			continue
		}
		if s.dueLocked(o, nil, now) == 0 {
			t.Fatal("two orders at once")
		}
		orders++
		o.made = append(o.made, now)
		o.fails++
		o.Running, o.Next = false, now.Add(min(lastBackoff, firstBackoff<<min(o.fails-1, 10)))
	}
	if orders != orderDaily {
		t.Errorf("%d orders in a day, want %d", orders, orderDaily)
	}
}

// TestOrderDue looks at a certificate through its life.
func TestOrderDue(t *testing.T) {
	s, now := &issuer{}, time.Unix(1e9, 0)
	e := &perigee.WebEntry{Version: 7}
	known := func() *order { return &order{version: 7, renew: now.Add(time.Hour), asked: now.Add(2 * time.Hour)} }
	for name, c := range map[string]struct {
		e    *perigee.WebEntry
		o    *order
		want time.Duration
	}{
		"none yet":               {nil, &order{}, 0},
		"not looked at yet":      {e, &order{}, 0},
		"good":                   {e, known(), time.Hour},
		"to be asked about":      {e, &order{version: 7, renew: now.Add(time.Hour), asked: now}, 0},
		"to be renewed":          {e, &order{version: 7, renew: now, asked: now.Add(time.Hour)}, 0},
		"another one":            {&perigee.WebEntry{Version: 8}, known(), 0},
		"failed a moment ago":    {nil, &order{Next: now.Add(time.Minute)}, time.Minute},
		"failed, and asked for":  {nil, &order{Next: now.Add(time.Minute), forced: true}, 0},
		"good, and asked for":    {e, &order{version: 7, renew: now.Add(time.Hour), asked: now.Add(time.Hour), forced: true}, 0},
		"running, and asked for": {e, &order{Running: true, forced: true}, issuerEvery},
	} {
		if got := s.dueLocked(c.o, c.e, now); got != c.want {
			t.Errorf("%s: wait %v, want %v", name, got, c.want)
		}
	}
}

func TestIsPublic(t *testing.T) {
	for host, want := range map[string]bool{
		"hello.example.com": true, "example.com": true, "hello.fn.internal": false, "a.localhost": false, "printer.local": false, "localhost": false, "a.test": false,
	} {
		if IsPublicHost(host) != want {
			t.Errorf("IsPublicHost(%q) = %v", host, !want)
		}
	}
}

// TestRecipients keeps a key inside the residency of all functions of a host: the issuer that orders it is
// there too, and one that left it is replaced.
func TestRecipients(t *testing.T) {
	fn := func(name, host, path string, residency ...string) *perigee.Function {
		m := perigee.Manifest{Name: name, Routes: []perigee.Route{{Host: host, Path: path}}, Placement: perigee.Policy{Residency: residency}}
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: m}}
	}
	v := issuerView(nil, fn("a", "a.fn.example", "/"), fn("b", "b.fn.example", "/", "eu"), fn("c", "c.example.com", "/"), fn("d", "c.example.com", "/d", "eu"))
	for _, c := range []struct {
		name   string
		region perigee.Region
		want   bool
	}{
		{"a.fn.example", "wdc", true}, {"b.fn.example", "wdc", false}, {"b.fn.example", "fra", true},
		{"c.example.com", "wdc", false}, {"c.example.com", "fra", true}, {"*.fn.example", "wdc", false}, {"*.fn.example", "fra", true},
	} {
		if _, got := placement.Terminates(v.Desired, c.name, perigee.NodeClaims{ID: "x", Region: c.region}); got != c.want {
			t.Errorf("the key of %s in %s: %v", c.name, c.region, got)
		}
	}
	issuers := issuerView(map[perigee.NodeID]perigee.NodeState{"i-fra-1": perigee.NodeAlive, "i-wdc-1": perigee.NodeAlive, "i-syd-1": perigee.NodeAlive})
	issuers.Desired = v.Desired
	for i := range 50 { // whatever the hash says
		d := *v.Desired
		d.Functions = map[string]*perigee.Function{"f": fn("f", fmt.Sprintf("h%d.example.com", i), "/", "eu")}
		view := &perigee.View{Observed: issuers.Observed, Desired: perigee.NewDesired(d)}
		if id := (&issuer{}).responsible(view, fmt.Sprintf("h%d.example.com", i)); id != "i-fra-1" {
			t.Errorf("%q would have the key of a host that lives in the EU", id)
		}
	}
	wrapped := make([]byte, 80)
	env := &identity.Envelope{Version: 1, Text: make([]byte, 64), Keys: []identity.Wrap{{Node: "i-fra-1", Key: wrapped}, {Node: "i-wdc-1", Key: wrapped}}}
	sealed, err := env.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"b.fn.example": true, "a.fn.example": false} {
		e := &perigee.WebEntry{WebName: perigee.WebName{Item: perigee.WebCertificate, Name: name}, Sealed: sealed}
		if got := leaked(issuers, e); got != want {
			t.Errorf("the key of %s is in Frankfurt and Washington: leaked = %v, want %v", name, got, want)
		}
	}
}
