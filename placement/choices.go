package placement

import (
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// maxChoices is how many nodes are looked at for a request. When they are all full or fail, the others
// are.
const maxChoices = 16

// Choices are the nodes that may serve the requests of one function that reach one entry node, the best
// of them as far as that can be said before a request comes. They hold for the View they were made
// from, and for requests whose client asks for nothing and that were not tried before. They do not
// change and may be used by any goroutine.
type Choices struct {
	request request
	demand  Demand
	list    []choice
	only    bool // the hard rules leave no other node
	cut     bool // there are more
}

// NewChoices prepares the choice for requests of fn that reach the entry node. caller is where their
// clients are; "" = in the entry's region. fact is as for Route. An empty result means that Route has
// to say what is wrong.
func NewChoices(fn *perigee.Function, entry perigee.NodeID, caller perigee.Region, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time) *Choices {
	c := &Choices{demand: Demand{Function: fn, Entry: entry, Caller: caller}}
	c.request = newRequest(&c.demand, v, nil)
	type rated struct {
		option
		choice
	}
	var all []rated
	var n counts
	for _, p := range v.Observed.Nodes {
		warmth := p.Revisions[fn.Live.ID]
		if n.count(c.request.standing(p), warmth) != eligible || warmth == perigee.Absent {
			continue
		}
		known := fact(p.ID)
		one := c.request.choice(p, warmth)
		idle := one // as if nothing ran there: what is so at this moment only is for Pick
		quiet := *p
		quiet.Load = perigee.Load{Service: p.Load.Service}
		idle.peer = &quiet
		r := rated{choice: one}
		idle.rate(&Fact{RTT: known.RTT, Measured: known.Measured, Start: known.Start}, now, &r.option)
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b rated) int { return byRank(&a.option, &b.option) })
	c.cut = len(all) > maxChoices
	for _, o := range all[:min(len(all), maxChoices)] {
		c.list = append(c.list, o.choice)
	}
	c.only = n.only()
	return c
}

// Len returns the number of nodes.
func (c *Choices) Len() int { return len(c.list) }

// Node returns the i-th node.
func (c *Choices) Node(i int) perigee.NodeID { return c.list[i].peer.ID }

// Pick chooses for one request, as Route does, and writes the best candidates into out, as many as it
// has room for, best first. It returns their number. facts has what the entry node knows now of each node, in the order of Node. It
// allocates nothing. 0 means that Route has to look at all nodes: there are no choices, or all those
// that are prepared are full or failed lately.
func (c *Choices) Pick(facts []Fact, now time.Time, chance float64, out []Candidate) int {
	var room [maxChoices]option
	options := room[:len(c.list)]
	for i := range options {
		c.list[i].rate(&facts[i], now, &options[i])
		for k := i; k > 0 && byRank(&options[k], &options[k-1]) < 0; k-- { // they are nearly sorted
			options[k], options[k-1] = options[k-1], options[k]
		}
	}
	if len(options) == 0 || c.cut && (options[0].busy() || options[0].class&classEjected != 0) {
		return 0
	}
	n := min(len(options), len(out))
	c.request.decide(options, c.only, chance, out[:n])
	return n
}
