package placement

import (
	"fmt"
	"strings"

	"github.com/perigee-edge/perigee"
)

// Warnings returns what of a policy changes nothing, with what to do, one sentence each: entries of forbid that
// other rules exclude already. They are no errors, since an entry may be meant for the day on which the other rule
// is gone. The policy is one that Check accepts; entries that name nodes or labels can't be judged without the nodes.
func Warnings(p *perigee.Policy, regions *perigee.Regions) []string {
	c := checker{rules: compile(p, regions, nil), names: true}
	c.policy = c.rules.policy
	others := c.rules
	others.policy = &perigee.Policy{Residency: c.policy.Residency, Pin: c.policy.Pin}
	others.forbid = nil
	var out []string
	for i, t := range c.rules.forbid {
		if t.Place == "" {
			continue
		}
		if !others.none() && !others.anyRegion(t, others.mayRun) {
			out = append(out, fmt.Sprintf("forbid: %q forbids nothing, since nothing of it is left, given %s: remove the entry, or keep it for when that changes", t.Place, strings.Join(others.active(), " and ")))
			continue
		}
		for k, wider := range c.rules.forbid {
			if k != i && wider.Place != "" && c.within(t, wider) && (k < i || !c.within(wider, t)) {
				out = append(out, fmt.Sprintf("forbid: %q forbids nothing that %q does not: remove one of them", t.Place, wider.Place))
				break
			}
		}
	}
	return out
}
