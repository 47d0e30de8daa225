package placement

import (
	"fmt"
	"strings"

	"github.com/perigee-edge/perigee"
)

// lacks notes that a place did not get what the manifest asks for, why, and what to do.
func (d *draft) lacks(dm *demand, have int) {
	if dm.open > have {
		d.unsatisfied = append(d.unsatisfied, fmt.Sprintf(
			"%s: max = %d leaves %d of %d for %s; raise max", dm.rule, d.policy.Max, have, dm.n, dm.text))
		return
	}
	var absent []string
	for i := range d.members {
		m, v := &d.members[i], d.verdicts[i]
		if dm.term.Matches(m.NodeClaims, d.rules.regions) && v.Reason != "" && !v.Chosen {
			absent = append(absent, fmt.Sprintf("%s is %s", m.ID, condition(v)))
		}
	}
	count := fmt.Sprintf("no allowed node %s is in service", where(dm.term))
	if have > 0 {
		count = fmt.Sprintf("%d of the %d nodes asked for %s can hold it", have, dm.n, where(dm.term))
	}
	d.unsatisfied = append(d.unsatisfied, fmt.Sprintf("%s: %s%s; %s", dm.rule, count, inBrackets(absent), d.remedy(dm.term)))
}

// lacksAny notes that no node at all can hold the function.
func (d *draft) lacksAny() {
	var down []string
	for _, v := range d.verdicts {
		if v.Reason == ReasonDown || v.Reason == ReasonDraining {
			down = append(down, fmt.Sprintf("%s is %s", v.Node, condition(v)))
		}
	}
	rule := strings.Join(d.rules.active(), " and ")
	switch {
	case rule == "":
		rule = "no rule excludes a node, but none is in service"
	case len(down) == 0:
		rule += " allows no node of this cluster; add a node there or change the rule"
	default:
		rule += ": no allowed node is in service"
	}
	d.unsatisfied = append(d.unsatisfied, rule+inBrackets(down))
}

// condition says in a word or two why a node is no seat.
func condition(v Verdict) string {
	if v.Reason == ReasonNotAllowed {
		return "excluded by " + v.Rule
	}
	if v.Reason == ReasonDown {
		return string(v.State)
	}
	return string(v.Reason)
}

func where(t perigee.Term) string {
	switch {
	case t.Node != "":
		return "named " + string(t.Node)
	case t.Label != "":
		return fmt.Sprintf("labelled %s=%s", t.Label, t.Value)
	}
	return "in " + t.Place
}

// remedy says how to get a node there.
func (d *draft) remedy(t perigee.Term) string {
	if t.Node != "" {
		return "start that node or change the rule"
	}
	if t.Label != "" {
		return "join a node whose token gives it that label, or change the rule"
	}
	region := t.Place
	if _, ok := d.rules.regions.Lookup(perigee.Region(t.Place)); !ok {
		region = fmt.Sprintf("<a region of %s>", t.Place)
	}
	return fmt.Sprintf("start one, or join one with: perigee token create --region %s", region)
}

// inBrackets lists things for people, at most maxSpelled of them.
func inBrackets(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return " (" + enumerate(list) + ")"
}

func enumerate(list []string) string {
	if n := len(list) - maxSpelled; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:maxSpelled], ", "), n)
	}
	return strings.Join(list, ", ")
}
