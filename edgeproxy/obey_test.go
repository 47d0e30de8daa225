package edgeproxy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// purge adds a purge to the View, as one of the cluster does.
func (w *world) purge(n byte, m perigee.PurgeMatch) {
	v := w.view.Load()
	d := *v.Desired
	d.Purges = map[string][]*perigee.Purge{}
	for function, list := range v.Desired.Purges {
		d.Purges[function] = list
	}
	d.Purges[m.Function] = append(d.Purges[m.Function][:len(d.Purges[m.Function]):len(d.Purges[m.Function])], &perigee.Purge{PurgeMatch: m, ID: perigee.Digest{n}})
	w.view.Store(&perigee.View{Desired: perigee.NewDesired(d), Observed: v.Observed})
}

func TestCachePurge(t *testing.T) {
	for _, c := range []struct {
		name  string
		match perigee.PurgeMatch
		runs  int
	}{
		{"tag", perigee.PurgeMatch{Tag: "two"}, 2}, {"tag of the function", perigee.PurgeMatch{Tag: "one", Function: "hello"}, 2},
		{"host", perigee.PurgeMatch{Host: testHost}, 2}, {"function", perigee.PurgeMatch{Function: "hello"}, 2},
		{"another tag", perigee.PurgeMatch{Tag: "three"}, 1}, {"another host", perigee.PurgeMatch{Host: "other.example.com", Tag: "one"}, 1},
		{"another function", perigee.PurgeMatch{Function: "other", Tag: "one"}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60", "Cache-Tag", "one, two")
			fetched(p, "GET", "/")
			time.Sleep(time.Second)
			w.purge(1, c.match)
			p.ObeyPurges()
			time.Sleep(time.Second)
			fetched(p, "GET", "/")
			equal(t, c.name, guest.runs(), c.runs)
			time.Sleep(time.Second)
			w.purge(2, perigee.PurgeMatch{Tag: "unheard of"})
			fetched(p, "GET", "/")
			equal(t, c.name+": a purge is obeyed once", guest.runs(), c.runs)
		})
	}
}

// TestCachePurgeMissed: who was away while more was purged than stays known drops all.
func TestCachePurgeMissed(t *testing.T) {
	for n, runs := range map[int]int{perigee.MaxPurges - 1: 1, perigee.MaxPurges: 2} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60", "Cache-Tag", "one")
			fetched(p, "GET", "/")
			time.Sleep(time.Second)
			for i := range n {
				w.purge(byte(i), perigee.PurgeMatch{Function: "hello", Tag: fmt.Sprint(i)})
			}
			fetched(p, "GET", "/")
			equal(t, fmt.Sprint(n, " purges"), guest.runs(), runs)
		})
	}
}

// TestCachePurgeMeanwhile: what was asked for before a purge is neither stored nor given to those who ask after it.
func TestCachePurgeMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60", "Cache-Tag", "one")
		head, rest := make(chan struct{}), make(chan struct{})
		guest.handler = slow(head, rest)
		early := start(p, "/")
		synctest.Wait()
		time.Sleep(time.Second)
		w.purge(1, perigee.PurgeMatch{Tag: "one"})
		late := start(p, "/")
		synctest.Wait()
		close(head)
		close(rest)
		equal(t, "early", early.body(), "begin end")
		equal(t, "late", late.body(), "begin end")
		equal(t, "runs", guest.runs(), 2)
	})
}

// TestCachePlacementChanges: what is stored goes where the function may not run any more, also if nobody asks.
func TestCachePlacementChanges(t *testing.T) {
	for name, edit := range map[string]func(*perigee.Manifest){
		"forbidden":     func(m *perigee.Manifest) { m.Placement.Forbid = []string{"fra"} },
		"not asked for": func(m *perigee.Manifest) { m.Cache = perigee.Cache{} },
	} {
		synctest.Test(t, func(t *testing.T) {
			p, _, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60")
			fetched(p, "GET", "/")
			equal(t, "stored", len(p.cached.store.Functions()), 1)
			w.change(edit)
			p.ObeyPurges()
			equal(t, name, len(p.cached.store.Functions()), 0)
		})
	}
}

// TestCacheRollout: while a new revision is rolled out, an answer of the one before is not stored as the new one's.
func TestCacheRollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld("fra-1:absent", "syd-1:absent", "wdc-1"), &script{}
		s.set(0, "Cache-Control", "max-age=60")
		w.change(func(m *perigee.Manifest) { m.Cache.Enabled = true })
		fn := *w.view.Load().Desired.Functions["hello"]
		live := *fn.Live
		live.ID = "ffffffffffff"
		fn.Kept, fn.Live, fn.History = []*perigee.Revision{fn.Live}, &live, []perigee.RevisionID{live.ID, testRev}
		w.set(w.view.Load().Observed.Nodes, &fn)
		w.changeNode("syd-1", func(p *perigee.Peer) {
			p.Revisions = map[perigee.RevisionID]perigee.Warmth{live.ID: perigee.Warm}
			p.Trials = map[perigee.RevisionID]perigee.Trial{live.ID: perigee.Trying}
		})
		rollout := func(cfg *Config) {
			cfg.Rollout = func(v *perigee.View, fn *perigee.Function) *placement.Rollout {
				return placement.NewRollouts(v).Of(fn, placement.Plan{Holders: []perigee.NodeID{"syd-1", "wdc-1"}}, "")
			}
		}
		mesh := newMesh()
		mesh.add("wdc-1", newProxy(t, w, "wdc-1", newLocal(s.serve), mesh, rollout)) // syd-1 is not reached
		p := newProxy(t, w, "fra-1", failing(&perigee.HopError{Code: perigee.RefusedNotHere}), mesh, rollout)
		for range 2 {
			rec := fetched(p, "GET", "/")
			equal(t, "revision that ran", receiptOf(t, rec.Header()).Revision, testRev)
			equal(t, "status", rec.Header().Get("Cache-Status"), "perigee; fwd=uri-miss; detail=revision")
		}
		mesh.wg.Wait()
	})
}
