package edgeproxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// TestReceiptsAgreeWithExplain asks in random worlds for an explanation and then for the function: the node
// and the reason in the receipt are of a candidate that the explanation gives a chance.
func TestReceiptsAgreeWithExplain(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	regions := []string{"fra", "ams", "lhr", "wdc", "sjc", "syd", "nrt"}
	places := append([]string{"eu", "na", "node:fra-1"}, regions...)
	some := func() []string { return []string{places[rng.IntN(len(places))]} }
	served, second, refused := 0, 0, 0
	for world := range 300 {
		h := newHops()
		var nodes []string
		for _, r := range regions {
			nodes = append(nodes, r+"-1"+[]string{"", "", ":cold", ":absent"}[rng.IntN(4)])
			h.on(perigee.NodeID(r+"-1"), answers(r))
		}
		w := newWorld(nodes...)
		var policy perigee.Policy
		switch rng.IntN(6) {
		case 0:
			policy.Pin = some()
		case 1:
			policy.Forbid = some()
		case 2:
			policy.Prefer = some()
		case 3:
			policy.Callers = []perigee.CallerRule{{From: []string{"eu"}, Run: some()}}
		}
		w.change(func(m *perigee.Manifest) { m.Placement = policy })
		entry := regions[rng.IntN(len(regions))]
		p := newProxy(t, w, entry+"-1", failing(nil), h)
		for range 5 {
			fn := w.view.Load().Desired.Functions["hello"]
			wish, target := Wish{}, "/"
			if rng.IntN(4) == 0 {
				wish.Prefer = regions[rng.IntN(len(regions))]
				target = "/?perigee-prefer=" + wish.Prefer
			}
			e, err := p.Explain(fn, "", wish)
			if err != nil {
				t.Fatal(err)
			}
			rec, _ := send(p, request("GET", target, nil))
			rc := receiptOf(t, rec.Header())
			if e.Refusal != nil {
				refused++
				if rec.Code != e.Refusal.Status || rc.Reason != ReasonRefused {
					t.Errorf("world %d from %s: %d, explained %d: %s", world, entry, rec.Code, e.Refusal.Status, e.Refusal.Detail)
				}
				continue
			}
			served++
			at := slices.IndexFunc(e.Candidates, func(c placement.Ranked) bool { return c.Node == rc.Node })
			if at < 0 || e.Candidates[at].Score.Chance <= 0 || string(e.Candidates[at].Reason) != rc.Reason {
				t.Errorf("world %d from %s with %+v: receipt %s %s, explained %s", world, entry, policy, rc.Node, rc.Reason, fmt.Sprint(e.Candidates))
			}
			if at > 0 {
				second++
			}
		}
	}
	t.Logf("%d served, %d of them by another than the best, %d refused", served, second, refused)
	if served == 0 || second == 0 || refused == 0 {
		t.Error("the worlds are too much alike: the test tests too little")
	}
}

// TestExplainHedge: the explanation says when and where a second copy goes, and it goes there.
func TestExplainHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fresh := newProxy(t, near(), "wdc-1", failing(nil), newHops())
		w := near()
		fn := w.view.Load().Desired.Functions["hello"]
		if e, err := fresh.Explain(fn, "", Wish{}); err != nil || e.Hedge != nil {
			t.Errorf("before anything is usual: %+v, %v", e.Hedge, err)
		}
		p, _, _ := hedged(t, w)
		e, err := p.Explain(fn, "", Wish{})
		if err != nil || e.Hedge == nil {
			t.Fatalf("no hedge: %v", err)
		}
		began := time.Now()
		rec, _ := send(p, request("GET", "/", nil))
		rc := receiptOf(t, rec.Header())
		if took := time.Since(began); rc.Reason != "hedge" || rc.Node != e.Hedge.Node || took < time.Duration(e.Hedge.After) || took > time.Duration(e.Hedge.After)+10*time.Millisecond {
			t.Errorf("%s by %s after %v, explained %+v", rc.Reason, rc.Node, took, *e.Hedge)
		}
	})
}
