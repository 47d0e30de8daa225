package placement_test

import (
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// TestTerminators: the key of a host goes where every function behind it resides, and the way leads to the
// nearest gateway there.
func TestTerminators(t *testing.T) {
	fn := func(name, path string, residency ...string) *perigee.Function {
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: perigee.Manifest{
			Name: name, Placement: perigee.Policy{Residency: residency}, Routes: []perigee.Route{{Host: "shop.example.com", Path: path}},
		}}}
	}
	nodes := map[perigee.NodeID]*perigee.Peer{}
	for _, region := range []perigee.Region{"fra", "ams", "wdc", "syd"} {
		id := perigee.NodeID(region) + "-1"
		nodes[id] = &perigee.Peer{NodeClaims: perigee.NodeClaims{ID: id, Region: region}, State: perigee.NodeAlive, Row: perigee.Row{HTTPS: ":443"}}
	}
	desired := perigee.Desired{
		Functions: map[string]*perigee.Function{"site": fn("site", "/"), "pay": fn("pay", "/pay", "eu")},
		Regions:   perigee.BuiltinRegions(), Revoked: map[perigee.NodeID]bool{},
	}
	v := &perigee.View{Desired: perigee.NewDesired(desired), Observed: &perigee.Observed{Nodes: nodes}}
	rtt := map[perigee.NodeID]time.Duration{}
	measured := func(id perigee.NodeID) (time.Duration, bool) { d, ok := rtt[id]; return d, ok }
	list := func() []perigee.NodeID {
		return placement.Terminators(v, nodes["wdc-1"].NodeClaims, "shop.example.com", measured)
	}
	for host, want := range map[string]bool{"shop.example.com": false, "*.example.com": false, "other.example.com": true, "*.shop.example.com": true} {
		rule, ok := placement.Terminates(v.Desired, host, nodes["wdc-1"].NodeClaims)
		if ok != want || !ok && rule != `residency = ["eu"]` {
			t.Errorf("wdc-1 ends %s: %v (%s), want %v", host, ok, rule, want)
		}
	}
	if got := list(); !slices.Equal(got, []perigee.NodeID{"ams-1", "fra-1"}) {
		t.Errorf("by distance on the map: %v", got)
	}
	rtt["ams-1"], rtt["fra-1"] = 95*time.Millisecond, 80*time.Millisecond
	if got := list(); !slices.Equal(got, []perigee.NodeID{"fra-1", "ams-1"}) {
		t.Errorf("as measured: %v", got)
	}
	nodes["fra-1"].Draining = true
	v.Desired.Revoked["ams-1"] = true
	if got := list(); len(got) != 0 {
		t.Errorf("one drains and one is revoked: %v", got)
	}
}
