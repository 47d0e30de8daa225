package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// The world of WarmShare.
const (
	warmNodes     = 6    // in as many regions
	warmFunctions = 1000 // called by Zipf's law with exponent 1
	warmRoom      = warmFunctions / 5
	warmRate      = 200.0 // requests a second of all functions together, from all regions alike
	warmGrace     = 10 * time.Second
)

// pool is the memory of a node for loaded code, and what it knows of the functions that it holds.
type pool struct {
	last map[int]time.Time // of those that are loaded: the last request
	idle map[int]*placement.Idle
}

// WarmShare has clients call many functions for an hour, and returns which part of the requests found their
// function loaded on the node where they ran. Each node has room for the code of a fifth of them. The planner
// says who may hold what, a request goes to the nearest holder that has it loaded, else to the nearest, which
// loads it. A node unloads what its histogram says and, where room is short, what was not used for longest.
// The functions were deployed before, each to its holders, in an order that says nothing of how often they are
// called. No function keeps code warm by its policy.
func WarmShare(r *rand.Rand) (share float64, requests int) {
	v := World(r, warmNodes, 0)
	for _, p := range v.Observed.Nodes {
		p.Memory = 4 * perigee.GiB // alike, as their room is
	}
	for i := range warmFunctions {
		fn := Function(fmt.Sprintf("fn-%d", i), perigee.Policy{Warm: map[string]int{"eu": 0}})
		v.Desired.Functions[fn.Name] = fn
	}
	fleet := placement.NewFleet(v)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	end := now.Add(time.Hour)
	pools := map[perigee.NodeID]*pool{}
	var entries []perigee.NodeID
	for id := range v.Observed.Nodes {
		pools[id] = &pool{map[int]time.Time{}, map[int]*placement.Idle{}}
		entries = append(entries, id)
	}
	slices.Sort(entries)
	holders := make([][]perigee.NodeID, warmFunctions)
	for _, i := range r.Perm(warmFunctions) {
		holders[i] = fleet.Plan(v.Desired.Functions[fmt.Sprintf("fn-%d", i)]).Holders
		for _, id := range holders[i] {
			pools[id].use(i, now)
		}
	}
	sums := make([]float64, warmFunctions) // of Zipf's weights up to each
	sum := 0.0
	for i := range sums {
		sum += 1 / float64(i+1)
		sums[i] = sum
	}
	swept, warm := now, 0
	for ; now.Before(end); now = now.Add(time.Duration(-math.Log(1-r.Float64()) / warmRate * float64(time.Second))) {
		if now.Sub(swept) >= time.Second {
			swept = now
			for _, p := range pools {
				p.sweep(now)
			}
		}
		i, _ := slices.BinarySearch(sums, r.Float64()*sum)
		id, loaded := choose(holders[i], i, pools, v, entries[r.IntN(len(entries))])
		if loaded {
			warm++
		}
		requests++
		pools[id].use(i, now)
	}
	return float64(warm) / float64(requests), requests
}

// choose returns the nearest holder that has a function loaded, else the nearest.
func choose(holders []perigee.NodeID, i int, pools map[perigee.NodeID]*pool, v *perigee.View, entry perigee.NodeID) (best perigee.NodeID, loaded bool) {
	from, _ := v.Desired.Regions.Lookup(v.Observed.Nodes[entry].Region)
	var least time.Duration
	for _, id := range holders {
		at, _ := v.Desired.Regions.Lookup(v.Observed.Nodes[id].Region)
		way := from.Point.EstimateRTT(at.Point)
		_, has := pools[id].last[i]
		if best == "" || has && !loaded || has == loaded && way < least {
			best, least, loaded = id, way, has
		}
	}
	return best, loaded
}

// use notes a request, and makes room.
func (p *pool) use(i int, now time.Time) {
	h := p.idle[i]
	if h == nil {
		h = &placement.Idle{}
		p.idle[i] = h
	}
	if last, ok := p.last[i]; ok {
		h.Add(now.Sub(last), 1)
	} else if len(p.last) >= warmRoom {
		longest, at := time.Duration(-1), 0
		for k, last := range p.last {
			if idle := now.Sub(last); idle > longest || idle == longest && k < at {
				longest, at = idle, k
			}
		}
		delete(p.last, at)
	}
	p.last[i] = now
}

// sweep unloads what no request is likely to come for.
func (p *pool) sweep(now time.Time) {
	for i, last := range p.last {
		if !p.idle[i].Loaded(now.Sub(last), warmGrace) {
			delete(p.last, i)
		}
	}
}
