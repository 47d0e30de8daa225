package placement

import (
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestRefusal(t *testing.T) {
	type place struct {
		node perigee.NodeID
		ms   float64
	}
	for _, tt := range []struct {
		name    string
		nodes   []string
		policy  perigee.Policy
		steer   Steer
		tried   []perigee.NodeID
		ms      map[perigee.NodeID]float64
		status  int
		cause   Cause
		rule    string
		nearest place
		detail  string
	}{
		{
			name: "pinned node is down", nodes: []string{"fra-1 warm dead", "syd-1", "wdc-1"}, policy: perigee.Policy{Pin: []string{"fra"}},
			ms:     map[perigee.NodeID]float64{"syd-1": 214},
			status: 503, cause: CauseAllowedDown, rule: `pin = ["fra"]`, nearest: place{"wdc-1", 0},
			detail: `pin = ["fra"] allows only fra-1 (down); the nearest node it excludes is wdc-1 in wdc, which took the request`,
		},
		{
			name: "the sentence of the manual", nodes: []string{"fra-1 warm dead", "wdc-2", "wdc-1 dead"}, policy: perigee.Policy{Pin: []string{"fra"}},
			ms:     map[perigee.NodeID]float64{"wdc-2": 91.2},
			status: 503, cause: CauseAllowedDown, rule: `pin = ["fra"]`, nearest: place{"wdc-2", 91.2},
			detail: `pin = ["fra"] allows only fra-1 (down); the nearest node it excludes is wdc-2 in wdc, 91 ms away`,
		},
		{
			name: "all ways to be out of service", nodes: []string{"fra-1 dead", "fra-2 left", "fra-3 draining warm", "fra-4 revoked warm", "wdc-1 warm draining"},
			policy: perigee.Policy{Residency: []string{"eu"}, Pin: []string{"fra"}},
			status: 503, cause: CauseAllowedDown, rule: `residency = ["eu"]`,
			detail: `residency = ["eu"] allows only fra-1 (down), fra-2 (left), fra-3 (draining)`,
		},
		{
			name: "two rules", nodes: []string{"fra-1 dead", "ams-1 warm", "wdc-1 draining"}, policy: perigee.Policy{Residency: []string{"eu"}, Pin: []string{"fra"}},
			status: 503, cause: CauseAllowedDown, rule: `residency = ["eu"] and pin = ["fra"]`, nearest: place{"ams-1", -1},
			detail: `residency = ["eu"] and pin = ["fra"] allow only fra-1 (down); the nearest node they exclude is ams-1 in ams, about 95 ms away`,
		},
		{
			name: "nobody satisfies the rule", nodes: []string{"syd-1 warm", "wdc-1 warm"}, policy: perigee.Policy{Residency: []string{"eu"}},
			status: 503, cause: CauseNoneAllowed, rule: `residency = ["eu"]`, nearest: place{"wdc-1", 0},
			detail: `residency = ["eu"] allows no node of this cluster; the nearest node it excludes is wdc-1 in wdc, which took the request`,
		},
		{
			name: "two rules leave nobody", nodes: []string{"fra-1 warm", "wdc-1 draining"}, policy: perigee.Policy{Residency: []string{"eu"}, Forbid: []string{"fra"}},
			status: 503, cause: CauseNoneAllowed, rule: `residency = ["eu"] and forbid = ["fra"]`, nearest: place{"fra-1", -1},
			detail: `residency = ["eu"] and forbid = ["fra"] allow no node of this cluster; the nearest node they exclude is fra-1 in fra, about 100 ms away`,
		},
		{
			name: "tried and refused", nodes: []string{"fra-1 warm", "fra-2 dead", "wdc-1"}, policy: perigee.Policy{Pin: []string{"fra"}}, tried: []perigee.NodeID{"fra-1"},
			ms:     map[perigee.NodeID]float64{"fra-1": 91, "fra-2": 92},
			status: 503, cause: CauseAllTried, rule: `pin = ["fra"]`, nearest: place{"wdc-1", 0},
			detail: `pin = ["fra"] allows only fra-1 (refused or silent), fra-2 (down); the nearest node it excludes is wdc-1 in wdc, which took the request`,
		},
		{
			name: "no rule, all tried", nodes: []string{"fra-1 warm", "wdc-1 warm"}, tried: []perigee.NodeID{"fra-1", "wdc-1"},
			status: 503, cause: CauseAllTried,
			detail: `no rule excludes a node, but none can serve: wdc-1 (refused or silent), fra-1 (refused or silent)`,
		},
		{
			name: "nobody has it", nodes: []string{"fra-1 dead warm", "fra-2", "wdc-1"}, policy: perigee.Policy{Pin: []string{"fra"}},
			ms:     map[perigee.NodeID]float64{"fra-1": 91, "fra-2": 92},
			status: 503, cause: CauseNoCopy, rule: `pin = ["fra"]`, nearest: place{"wdc-1", 0},
			detail: `pin = ["fra"] allows only fra-1 (down), fra-2 (no copy of the bundle); the nearest node it excludes is wdc-1 in wdc, which took the request`,
		},
		{
			name: "no node at all", nodes: []string{"fra-1 warm revoked"}, policy: perigee.Policy{Pin: []string{"fra"}},
			status: 503, cause: CauseNoneAllowed, detail: `this cluster has no node`,
		},

		{
			name: "forced where it is forbidden", nodes: []string{"fra-1 warm", "syd-1 warm", "syd-2 dead"}, policy: perigee.Policy{Pin: []string{"fra"}}, steer: Steer{SteerForce, "syd"},
			ms:     map[perigee.NodeID]float64{"syd-1": 214, "syd-2": 3},
			status: 403, cause: CauseForceDenied, rule: `pin = ["fra"]`, nearest: place{"syd-1", 214},
			detail: `the client forced syd, where pin = ["fra"] allows no node; the nearest node it excludes is syd-1 in syd, 214 ms away`,
		},
		{
			name: "forced where it is forbidden and nobody is", nodes: []string{"fra-1 warm"}, policy: perigee.Policy{Residency: []string{"eu"}}, steer: Steer{SteerForce, "oc"},
			status: 403, cause: CauseForceDenied, rule: `residency = ["eu"]`,
			detail: `the client forced oc, where residency = ["eu"] allows no node`,
		},
		{
			name: "forced to a group that is allowed in part", nodes: []string{"fra-1 warm", "ams-1 dead"}, policy: perigee.Policy{Pin: []string{"ams", "syd"}}, steer: Steer{SteerForce, "eu"},
			ms:     map[perigee.NodeID]float64{"fra-1": 80},
			status: 503, cause: CauseAllowedDown, rule: `force = "eu"`,
			detail: `the client forced eu, where only ams-1 (down) may run it`,
		},
		{
			name: "forced where it is down", nodes: []string{"ams-1 dead", "fra-1 warm", "lon-1 warm", "syd-1 warm dead"}, policy: perigee.Policy{Forbid: []string{"lon"}}, steer: Steer{SteerForce, "syd"},
			ms:     map[perigee.NodeID]float64{"ams-1": 80, "fra-1": 91, "lon-1": 75},
			status: 503, cause: CauseAllowedDown, rule: `force = "syd"`, nearest: place{"fra-1", 91},
			detail: `the client forced syd, where only syd-1 (down) may run it; the nearest node it excludes is fra-1 in fra, 91 ms away`,
		},
		{
			name: "forced and refused there", nodes: []string{"fra-1 warm", "syd-1 warm"}, tried: []perigee.NodeID{"syd-1"}, steer: Steer{SteerForce, "syd"},
			status: 503, cause: CauseAllTried, rule: `force = "syd"`, nearest: place{"fra-1", -1},
			detail: `the client forced syd, where only syd-1 (refused or silent) may run it; the nearest node it excludes is fra-1 in fra, about 302 ms away`,
		},
		{
			name: "forced where nobody is", nodes: []string{"fra-1 warm", "fra-2 draining"}, steer: Steer{SteerForce, "syd"},
			ms:     map[perigee.NodeID]float64{"fra-1": 0.31},
			status: 503, cause: CauseForceEmpty, rule: `force = "syd"`, nearest: place{"fra-1", 0.31},
			detail: `the client forced syd, where this cluster has no node; the nearest node it excludes is fra-1 in fra, 0.3 ms away`,
		},
		{
			name: "forced by label where nobody is", nodes: []string{"fra-1 warm"}, policy: perigee.Policy{Pin: []string{"label:gpu=yes"}}, steer: Steer{SteerForce, "syd"},
			status: 503, cause: CauseForceEmpty, rule: `force = "syd"`,
			detail: `the client forced syd, where this cluster has no node`,
		},
		{
			name: "forced to nowhere", nodes: []string{"fra-1 warm"}, steer: Steer{SteerForce, "atlantis"},
			status: 403, cause: CauseForceUnknown, rule: `force = "atlantis"`,
			detail: `the client forced "atlantis", which is no region or group of this cluster`,
		},
		{
			name: "forced to nothing", nodes: []string{"fra-1 warm"}, steer: Steer{Mode: SteerForce},
			status: 403, cause: CauseForceUnknown, rule: `force = ""`,
			detail: `the client forced "", which is no region or group of this cluster`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Demand{Function: function(tt.policy), Entry: "wdc-1", Steer: tt.steer, Tried: map[perigee.NodeID]bool{}}
			for _, id := range tt.tried {
				d.Tried[id] = true
			}
			got := Route(d, cluster(t, tt.nodes...), measured(tt.ms), noon, 0).Refusal
			if got == nil {
				t.Fatal("not refused")
			}
			if got.Status != tt.status || got.Cause != tt.cause || got.Rule != tt.rule || got.Detail != tt.detail {
				t.Errorf("%d %s, rule %s:\n %s\nwant %d %s, rule %s:\n %s", got.Status, got.Cause, got.Rule, got.Detail, tt.status, tt.cause, tt.rule, tt.detail)
			}
			switch n := got.Nearest; {
			case (n == nil) != (tt.nearest.node == ""):
				t.Errorf("nearest %+v, want %v", n, tt.nearest)
			case n != nil && (n.Node != tt.nearest.node || tt.nearest.ms >= 0 && n.RTT != time.Duration(tt.nearest.ms*float64(time.Millisecond))):
				t.Errorf("nearest %+v, want %v", n, tt.nearest)
			}
		})
	}
}
