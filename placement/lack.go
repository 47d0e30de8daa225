package placement

import (
	"fmt"
	"strings"

	"github.com/perigee-edge/perigee"
)

// lacks notes that a place did not get what the manifest asks for, why, and what to do.
func (d *draft) lacks(dm *demand, have int) {
	if dm.open > have {
		d.complain(dm.hard(), fmt.Sprintf(
			"%s: max = %d leaves %d of %d for %s; raise max", dm.rule, d.policy.Max, have, dm.n, dm.text))
		return
	}
	var absent []string
	for i := range d.members {
		m := &d.members[i]
		if d.rules.inAny(dm.terms, m.NodeClaims) && !d.isSeat(m) {
			absent = append(absent, fmt.Sprintf("%s is %s", m.ID, condition(d.unseated(m))))
		}
	}
	count := fmt.Sprintf("no allowed node %s is in service", where(dm.terms))
	if have > 0 {
		count = fmt.Sprintf("%d of the %d nodes asked for %s can hold it", have, dm.n, where(dm.terms))
	}
	d.complain(dm.hard(), fmt.Sprintf("%s: %s%s; %s", dm.rule, count, inBrackets(absent), d.remedy(dm.terms[0])))
}

// complain notes what the cluster can't give. What is not hard may be relaxed, if the policy says so.
func (d *draft) complain(hard bool, what string) {
	if !hard && d.policy.OnUnsatisfiable == perigee.OnDegrade {
		d.relaxed = append(d.relaxed, what)
		return
	}
	d.unsatisfied = append(d.unsatisfied, what)
}

// isSeat reports whether the node can hold the function.
func (d *draft) isSeat(m *member) bool {
	return !m.revoked && m.routable && !noRoom(m, d.fn) && d.rules.excludes(m.NodeClaims) == nothing
}

// lacksSurvive notes that the holders are in fewer places than survive asks for.
func (d *draft) lacksSurvive(have int) {
	rule := spellSurvive(d.policy.Survive)
	if d.capped {
		d.complain(false, fmt.Sprintf("%s: max = %d leaves no room for a holder elsewhere; raise max", rule, d.policy.Max))
		return
	}
	if have == 0 {
		return // nobody can hold it at all, which is said elsewhere
	}
	at := d.holders[0]
	what, where := "zone", fmt.Sprintf("zone %q of %s", at.Zone, at.Region)
	fix := fmt.Sprintf("join one in another zone with: perigee token create --region %s --zone <another>", at.Region)
	if d.policy.Survive == perigee.SurviveRegion {
		what, where = "region", string(at.Region)
		fix = "join one elsewhere with: perigee token create --region <another>, or use survive = \"zone\""
	}
	d.complain(false, fmt.Sprintf("%s: all allowed nodes in service are in %s, so there is no second %s; %s", rule, where, what, fix))
}

// lacksAny notes that no node at all can hold the function.
func (d *draft) lacksAny() {
	var down []string
	for i := range d.members {
		if v := d.unseated(&d.members[i]); v.Reason == ReasonDown || v.Reason == ReasonDraining || v.Reason == ReasonDiskFull {
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

func where(terms []perigee.Term) string {
	var out []string
	for _, t := range terms {
		switch {
		case t.Node != "":
			out = append(out, "named "+string(t.Node))
		case t.Label != "":
			out = append(out, fmt.Sprintf("labelled %s=%s", t.Label, t.Value))
		default:
			out = append(out, "in "+t.Place)
		}
	}
	return strings.Join(out, " or ")
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
