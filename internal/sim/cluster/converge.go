package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
)

// Spread is how deploys reached the nodes.
type Spread struct {
	Times  []time.Duration // from the submission of a deploy to its being on a node's disk and in its View, sorted
	Missed int             // of all pairs of deploy and living node: those that were not reached in a minute
	Trace  uint64
}

// Percentile returns the time within which a share of the pairs were reached.
func (s Spread) Percentile(share float64) time.Duration {
	return s.Times[min(len(s.Times)-1, int(share*float64(len(s.Times))))]
}

// Converge makes a cluster in which a share of the nodes is dead, and nobody has noticed yet; then it
// deploys a number of functions, one after another, on nodes chosen by chance.
func Converge(conf Config, dead float64, deploys int) (Spread, error) {
	w, err := New(conf)
	if err != nil {
		return Spread{}, err
	}
	for _, i := range w.chance.Perm(len(w.nodes))[:int(dead*float64(len(w.nodes)))] {
		w.nodes[i].kill()
	}
	w.Run(10 * time.Second) // connections to partners are open, and some of the dead were called
	var living []*Node
	for _, n := range w.nodes {
		if n.core != nil {
			living = append(living, n)
		}
	}
	var s Spread
	var began time.Time
	var id perigee.Digest
	seen := map[*Node]bool{}
	w.stored = func(n *Node) {
		if !seen[n] && n.core.Holds(id) {
			seen[n] = true
			s.Times = append(s.Times, w.now.Sub(began))
		}
	}
	for i := range deploys {
		n := living[w.chance.IntN(len(living))]
		records, err := n.deploy(fmt.Sprint("f", i))
		if err != nil {
			return s, err
		}
		clear(seen)
		began, id = w.now, record.ID(records[1])
		n.Submit(records, func(o gossip.Outcome) { err = o.Err })
		w.RunUntil(time.Minute, func() bool { return len(seen) == len(living) })
		if err != nil {
			return s, err
		}
		s.Missed += len(living) - len(seen)
	}
	slices.Sort(s.Times)
	s.Trace = w.Trace()
	return s, nil
}
