package placement

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// Calls is what is asked of one function in the whole cluster, lately.
type Calls struct {
	Rates map[perigee.Region]float64 `json:"rates"` // requests a second, by the region of the node that they reached
	Busy  float64                    `json:"busy"`  // requests that run at once
	Slots int                        `json:"slots"` // requests that one holder runs at once without harm; 0 = nobody knows
}

// CallsOf sums what the nodes of a View tell about the functions that include picks; nil = all. A function
// that nobody calls is not in the result.
func CallsOf(v *perigee.View, include func(function string) bool) map[string]*Calls {
	out := map[string]*Calls{}
	slots := map[string][]int{}
	for _, p := range v.Observed.Nodes {
		if p.State != perigee.NodeAlive && p.State != perigee.NodeSuspect || v.Desired.Revoked[p.ID] {
			continue
		}
		for name, t := range p.Traffic {
			if include != nil && !include(name) || v.Desired.Functions[name] == nil {
				continue
			}
			c := out[name]
			if c == nil {
				c = &Calls{Rates: map[perigee.Region]float64{}}
				out[name] = c
			}
			if t.Asked > 0 {
				c.Rates[p.Region] += float64(t.Asked) / 100
			}
			c.Busy += float64(t.Busy) / 100
			if t.Slots > 0 {
				slots[name] = append(slots[name], int(t.Slots))
			}
		}
	}
	for name, list := range slots {
		slices.Sort(list)
		out[name].Slots = list[len(list)/2]
	}
	return out
}

func (c *Calls) equal(o *Calls) bool {
	return c.Busy == o.Busy && c.Slots == o.Slots && maps.Equal(c.Rates, o.Rates)
}

const (
	// fillTo is the part of a holder's slots that its share of the calls may take; more and they wait for one
	// another. Knative's autoscaler has the same target.
	fillTo = 0.7

	// overloadWait is what a request counts as waiting for which there is no room anywhere, besides its way.
	overloadWait = time.Second
)

// site is a holder as the waiting depends on it.
type site struct {
	id     perigee.NodeID
	region perigee.Region
	target time.Duration // the way from there to what near names
}

// Waiting returns how long the calls of one second are on their way, all together, with these holders. Of two
// sets of holders the one with less is better for callers.
func (c *Calls) Waiting(fn *perigee.Function, holders []perigee.NodeID, v *perigee.View) time.Duration {
	t := targetIn(fn, v)
	var sites []site
	for _, id := range holders {
		if p := v.Observed.Nodes[id]; p != nil {
			sites = append(sites, site{id: id, region: p.Region, target: t.way(p)})
		}
	}
	return time.Duration(c.waiting(sites, newWays(v.Desired.Regions)) * float64(time.Second))
}

// ways remembers the ways between regions. It is for one goroutine.
type ways struct {
	catalogue *perigee.Regions
	rtt       map[[2]perigee.Region]time.Duration
}

func newWays(catalogue *perigee.Regions) *ways {
	return &ways{catalogue: catalogue, rtt: map[[2]perigee.Region]time.Duration{}}
}

func (w *ways) between(a, b perigee.Region) time.Duration {
	d, ok := w.rtt[[2]perigee.Region{a, b}]
	if !ok {
		d = estimateRTT(w.catalogue, a, b)
		w.rtt[[2]perigee.Region{a, b}] = d
	}
	return d
}

// waiting returns how many seconds the calls of one second are on their way, all together, when each goes to
// the nearest of these holders that has room: by Little's law, how many are on their way at any moment.
func (c *Calls) waiting(sites []site, w *ways) float64 {
	type leg struct {
		from, to int
		way      time.Duration
	}
	from := slices.Sorted(maps.Keys(c.Rates))
	total := 0.0
	left := make([]float64, len(from)) // requests a second that have no holder yet
	nearest := make([]time.Duration, len(from))
	legs := make([]leg, 0, len(from)*len(sites))
	for i, region := range from {
		left[i] = c.Rates[region]
		total += left[i]
		nearest[i] = farthestRTT
		for k := range sites {
			way := w.between(region, sites[k].region) + sites[k].target
			nearest[i] = min(nearest[i], way)
			legs = append(legs, leg{i, k, way})
		}
	}
	if total == 0 {
		return 0
	}
	slices.SortFunc(legs, func(a, b leg) int {
		return cmp.Or(cmp.Compare(a.way, b.way), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	room := make([]float64, len(sites)) // requests a second
	for k := range room {
		room[k] = total // for all of them
		if c.Slots > 0 && c.Busy > 0 {
			room[k] = fillTo * float64(c.Slots) / c.Busy * total
		}
	}
	sum := 0.0
	for _, l := range legs {
		n := min(left[l.from], room[l.to])
		left[l.from] -= n
		room[l.to] -= n
		sum += n * l.way.Seconds()
	}
	for i, n := range left {
		sum += n * (nearest[i] + overloadWait).Seconds()
	}
	return sum
}
