package placement

import (
	"maps"
	"slices"

	"github.com/perigee-edge/perigee"
)

// BaseHolders is how many nodes hold a function whose policy asks for nothing else: two, so that
// the death of one leaves one.
const BaseHolders = 2

// Plan is where one function should be.
type Plan struct {
	Function    string                  `json:"function"`
	Holders     []perigee.NodeID        `json:"holders"`               // these store the bundle; sorted
	Warm        map[perigee.NodeID]bool `json:"warm"`                  // holders that are to keep the code loaded; never false
	Verdicts    []Verdict               `json:"verdicts"`              // one for each node, sorted by Node
	Unsatisfied []string                `json:"unsatisfied,omitempty"` // what the policy asks and the cluster can't give: the rule, the cause, what to do
	Relaxed     []string                `json:"relaxed,omitempty"`     // the same, where the policy says on_unsatisfiable = "degrade"
}

// Planner plans the functions of one View. It does not change after NewPlanner and may be used
// from any goroutine.
type Planner struct {
	members     []member // sorted by ID
	catalogue   *perigee.Regions
	functions   map[string]*perigee.Function // that near may name; nil = none
	optional    map[string][]perigee.Optional
	regions     []perigee.Region // by member.region
	regionCount int              // member.region is below it
	zoneCount   int              // member.zone is below it
	full        bool             // the disk of some node is
}

// member is a node with numbers in place of the names of its region and zone.
type member struct {
	*perigee.Peer
	revoked      bool
	routable     bool
	region, zone int
	weight       int    // how many shares of work it gets, compared with others
	hash         uint64 // of its ID
}

// maxWeight bounds how many times more functions a large node holds than a small one.
const maxWeight = 16

// weightOf gives a node one share for each 4 GiB of memory that it has for guests, one at least.
func weightOf(p *perigee.Peer) int {
	return int(max(1, min(maxWeight, p.Memory/(4*perigee.GiB))))
}

// score is the node's place in the order of a function: the best of as many draws as it has shares.
func (m *member) score(function uint64) uint64 {
	best := score(function, m.hash)
	for i := 1; i < m.weight; i++ {
		best = max(best, mix(best+uint64(i)))
	}
	return best
}

// NewPlanner prepares to plan the functions of v. Revoked nodes get a verdict and hold nothing.
func NewPlanner(v *perigee.View) *Planner {
	pl := newPlanner(v.Observed.Nodes, v.Desired.Revoked, v.Desired.Regions)
	pl.functions = v.Desired.Functions
	pl.optional = claims(pl.members)
	return pl
}

// PlanFunction plans one function over nodes, none of which is revoked. NewPlanner is cheaper for many.
func PlanFunction(fn *perigee.Function, nodes map[perigee.NodeID]*perigee.Peer, regions *perigee.Regions) Plan {
	return newPlanner(nodes, nil, regions).Plan(fn)
}

func newPlanner(nodes map[perigee.NodeID]*perigee.Peer, revoked map[perigee.NodeID]bool, regions *perigee.Regions) *Planner {
	type zone struct {
		region perigee.Region
		name   string
	}
	regionNumber, zoneNumber := map[perigee.Region]int{}, map[zone]int{}
	pl := &Planner{members: make([]member, 0, len(nodes)), catalogue: regions}
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		p := nodes[id]
		pl.full = pl.full || p.Full
		pl.members = append(pl.members, member{
			Peer:     p,
			revoked:  revoked[id],
			routable: p.Routable(),
			region:   number(regionNumber, p.Region),
			zone:     number(zoneNumber, zone{p.Region, p.Zone}),
			weight:   weightOf(p),
			hash:     hashName(string(id)),
		})
	}
	pl.regions = make([]perigee.Region, len(regionNumber))
	for region, n := range regionNumber {
		pl.regions[n] = region
	}
	pl.regionCount, pl.zoneCount = len(regionNumber), len(zoneNumber)
	return pl
}

// number returns the number of key, the next free one if it has none.
func number[K comparable](numbers map[K]int, key K) int {
	n, ok := numbers[key]
	if !ok {
		n = len(numbers)
		numbers[key] = n
	}
	return n
}

// Plan chooses the holders of fn. docs/placement.md states the rules; in short:
//
//  1. Nodes that a hard rule excludes, that are revoked, draining, left or dead are out. Suspect
//     nodes are in: a node that misses a few answers keeps what it has.
//  2. Each pinned place and each run of callers gets a holder, and each place of warm its number of
//     warm holders, the places with fewest nodes first, since a holder counts for all the places it is in.
//  3. The optional holders that demand asks for follow (Scaler).
//  4. Holders are added up to BaseHolders, in two zones or regions if survive says so.
//  5. max ends all of this; pins are served before warm then, and survive before demand.
//
// Among the nodes that would do, the order is: the earlier entry of prefer, the nearer to the target of
// near, the less used zone, the less used region, the higher rendezvous score, the ID.
func (pl *Planner) Plan(fn *perigee.Function) Plan {
	d := pl.draft(fn, &room{})
	p := d.plan()
	p.Verdicts = d.verdicts()
	return p
}

func (pl *Planner) draft(fn *perigee.Function, at *room) *draft {
	return pl.draftWith(fn, at, pl.optional[fn.Name])
}

// draftWith is draft with other optional holders.
func (pl *Planner) draftWith(fn *perigee.Function, at *room, optional []perigee.Optional) *draft {
	d := newDraft(pl, fn, at)
	d.seatDemands()
	d.seatOptional(optional)
	d.seatBase()
	return d
}
