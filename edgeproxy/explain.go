package edgeproxy

import (
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// Wish is what a client asks for: regions or groups, "" = nothing.
type Wish struct{ Prefer, Force string }

// Explain says what this node would do with a request of fn that reached it now, whose client is in a
// region ("" = in this node's): the same choice, by the same facts. An error means that the request would
// be refused because of what the client asks for; it says so as the client would be told.
func (p *Proxy) Explain(fn *perigee.Function, caller perigee.Region, asks Wish) (placement.RouteReport, error) {
	steer, pr := steering(wish{asks.Prefer, asks.Force}, fn, p.cfg.Steer)
	if pr != nil {
		return placement.RouteReport{}, refusedWish{pr}
	}
	now := time.Now()
	view := p.cfg.View()
	v := &visit{proxy: p, fn: fn, view: view, rollout: p.rollout(view, fn), route: p.routes.of(fn, view.Desired.Functions)}
	d := placement.Demand{Function: fn, Entry: p.cfg.Self, Caller: caller, Steer: steer, Rollout: v.rollout}
	report := placement.ExplainRoute(d, view, func(id perigee.NodeID) placement.Fact { return v.fact(id, now) }, now)
	report.Hedge = v.hedgeOf(report.Candidates, now)
	return report, nil
}

// hedgeOf says when and where a second copy of a request goes that the best candidate serves; nil = nowhere.
func (v *visit) hedgeOf(list []placement.Ranked, now time.Time) *placement.Hedge {
	unusual, known := v.route.unusual()
	if !known || len(list) < 2 || list[0].Node == v.proxy.cfg.Self {
		return nil
	}
	others := make([]placement.Candidate, len(list)-1)
	for i, c := range list[1:] {
		others[i] = placement.Candidate(c)
	}
	to := v.spare(others, now)
	if to == nil {
		return nil
	}
	return &placement.Hedge{Node: to.Node, Region: to.Region, After: perigee.Duration(list[0].Score.Way + unusual)}
}

type refusedWish struct{ *problem }

func (e refusedWish) Error() string { return e.what + " " + e.hint }
