package placement

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
)

// Check reports what is wrong with a function's policy whatever nodes there are: entries that can't be read,
// unknown places, rules that contradict each other, and wishes that the rules make void. The error
// lists all it found, one a line, each with its rule and what to change. With regions nil, only
// what needs no catalogue is checked. What changes nothing but may be meant is in Warnings.
//
// Whether the keys are obeyed by this release is not checked here; the manifest's checker does.
func Check(function string, p *perigee.Policy, regions *perigee.Regions) error {
	c := checker{rules: compile(p, regions, nil), names: regions != nil}
	c.policy = c.rules.policy
	p = c.policy
	c.list("residency", p.Residency)
	c.list("pin", p.Pin)
	c.list("forbid", p.Forbid)
	c.list("prefer", p.Prefer)
	for i, r := range p.Callers {
		c.callerLists(i, r)
	}
	c.warmKeys()
	switch near, err := perigee.ParseNear(p.Near); {
	case err != nil:
		c.add("near: %w", err)
	case near.Function != "" && near.Function == function:
		c.add("near: %q is the function itself, which is always near to itself: name another one, or remove the key", p.Near)
	}
	if len(c.errs) == 0 && c.names { // what follows takes all entries as read and known
		c.reachable()
	}
	if len(c.errs) == 0 && c.names {
		c.callers()
		c.shadowed()
	}
	if len(c.errs) == 0 {
		c.max()
		c.survive()
	}
	return errors.Join(c.errs...)
}

type checker struct {
	policy *perigee.Policy
	rules  rules
	names  bool
	errs   []error
}

func (c *checker) add(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// list checks the entries of one key.
func (c *checker) list(key string, entries []string) {
	seen := map[string]bool{}
	for _, s := range entries {
		t, err := perigee.ParseTerm(s)
		switch {
		case err != nil:
			c.add("%s: %w", key, err)
		case seen[s]:
			c.add("%s names %q twice: remove one", key, s)
		case t.Place != "":
			c.known(key, t.Place)
		}
		seen[s] = true
	}
}

func (c *checker) known(key, place string) {
	if c.names && !c.rules.regions.Known(place) {
		c.add("%s: %q is no region or group of this cluster: see perigee region ls, or add it with perigee region add", key, place)
	}
}

func (c *checker) warmKeys() {
	for _, place := range slices.Sorted(maps.Keys(c.policy.Warm)) {
		t, err := perigee.ParseTerm(place)
		switch n := c.policy.Warm[place]; {
		case err != nil:
			c.add("warm: %w", err)
		case t.Place == "":
			c.add("warm counts by region or group, and %q is neither", place)
		case n < 0:
			c.add("%s: use 0 or more", spellWarm(place, n))
		default:
			c.known("warm", place)
		}
	}
}

// reachable checks that the hard rules leave a region at all, one in each pinned place, and one in
// each place that the soft keys name. Entries that name nodes or labels can't be judged without
// the nodes; PlanFunction judges them.
func (c *checker) reachable() {
	for _, s := range c.policy.Pin {
		t, _ := perigee.ParseTerm(s)
		switch {
		case slices.Contains(c.policy.Forbid, s):
			c.add("pin and forbid both name %q: remove one", s)
		case t.Place == "":
		case !c.rules.anyRegion(t, c.rules.resides):
			c.add("pin: %q lies outside %s: remove the entry or widen the residency", s, c.rules.text(byResidency))
		case !c.rules.anyRegion(t, c.rules.mayRun):
			c.add("pin: %q has no region left, given %s: remove one of them", s, c.given())
		}
	}
	if len(c.errs) > 0 {
		return
	}
	if !c.rules.none() && !slices.ContainsFunc(c.rules.regions.All(), func(info perigee.RegionInfo) bool { return c.rules.mayRun(info.Code) }) {
		c.add("no region of this cluster is left, given %s: narrow forbid", c.given())
		return
	}
	for _, place := range slices.Sorted(maps.Keys(c.policy.Warm)) {
		if n := c.policy.Warm[place]; n > 0 && !c.rules.anyRegion(perigee.Term{Place: place}, c.rules.mayRun) {
			c.add("%s can't be kept, given %s: remove the entry", spellWarm(place, n), c.given())
		}
	}
	for _, s := range c.policy.Prefer {
		t, _ := perigee.ParseTerm(s)
		if slices.Contains(c.policy.Forbid, s) || t.Place != "" && !c.rules.anyRegion(t, c.rules.mayRun) {
			c.add("prefer: %q can never be used, given %s: remove the entry", s, c.given())
		}
	}
}

// callerLists checks the places of one rule of callers.
func (c *checker) callerLists(i int, r perigee.CallerRule) {
	key := fmt.Sprintf("callers[%d]", i)
	c.list(key+".from", r.From)
	c.list(key+".run", r.Run)
	if len(r.From) == 0 || len(r.Run) == 0 {
		c.add("%s needs both from and run: requests from where run only where", key)
	}
	for _, s := range r.From {
		if t, err := perigee.ParseTerm(s); err == nil && t.Place == "" {
			c.add("%s.from: %q is no place where clients are: use regions or groups", key, s)
		}
	}
}

// callers checks that the rules leave room for requests from everywhere: each rule on its own, and all
// that bind one region together.
func (c *checker) callers() {
	for i := range c.policy.Callers {
		one := c.rules
		one.callers = nil
		one.policy = &perigee.Policy{Residency: c.policy.Residency, Pin: c.policy.Pin, Forbid: c.policy.Forbid, Callers: c.policy.Callers[i : i+1]}
		rule := &c.policy.Callers[i]
		t, _ := perigee.ParseTerm(rule.From[0])
		for _, info := range c.rules.regions.All() {
			if t.Matches(perigee.NodeClaims{Region: info.Code}, c.rules.regions) {
				one.from(info.Code)
				break
			}
		}
		if !one.anywhere() {
			c.add("callers[%d]: requests from %s may run nowhere, given %s: change run, or widen the other rules", i, strings.Join(rule.From, ", "), strings.Join(one.active(), " and "))
			return
		}
	}
	for _, info := range c.rules.regions.All() {
		all := c.rules
		all.callers = nil
		all.from(info.Code)
		if len(all.callers) > 1 && !all.anywhere() {
			c.add("requests from %s may run nowhere: %s contradict each other there: narrow from in one of them, or widen run", info.Code, all.text(byCallers))
			return
		}
	}
}

// shadowed finds entries of prefer that earlier ones make void: one that is wider, or several that together
// have all that the hard rules leave of it.
func (c *checker) shadowed() {
	var before []perigee.Term
	for _, s := range c.policy.Prefer {
		t, _ := perigee.ParseTerm(s)
		if t.Place == "" {
			continue
		}
		for _, b := range before {
			if c.within(t, b) {
				c.add("prefer: %q is never reached, since %q before it contains it: put %q first, or remove it", s, b.Place, s)
				return
			}
		}
		if !c.rules.anyRegion(t, func(r perigee.Region) bool {
			return c.rules.mayRun(r) && !c.rules.inAny(before, perigee.NodeClaims{Region: r})
		}) {
			c.add("prefer: %q is never reached, since all of it%s is in %s before it: remove the entry", s, c.left(), c.hiding(t, before))
			return
		}
		before = append(before, t)
	}
}

// within reports whether each region of a place is in another, too.
func (c *checker) within(t, other perigee.Term) bool {
	return !c.rules.anyRegion(t, func(r perigee.Region) bool { return !other.Matches(perigee.NodeClaims{Region: r}, c.rules.regions) })
}

// hiding spells the places that have something of t in which the function may run.
func (c *checker) hiding(t perigee.Term, places []perigee.Term) string {
	var out []string
	for _, b := range places {
		if c.rules.anyRegion(t, func(r perigee.Region) bool {
			return c.rules.mayRun(r) && b.Matches(perigee.NodeClaims{Region: r}, c.rules.regions)
		}) {
			out = append(out, strconv.Quote(b.Place))
		}
	}
	return strings.Join(out, " and ")
}

// left says which rules leave only a part of places.
func (c *checker) left() string {
	if c.rules.none() {
		return ""
	}
	return fmt.Sprintf(" that is left, given %s,", c.given())
}

// survive checks that the hard rules and max leave room for holders in two places.
func (c *checker) survive() {
	goal := c.policy.Survive
	if goal != perigee.SurviveZone && goal != perigee.SurviveRegion {
		return
	}
	if m := c.policy.Max; m > 0 && m < BaseHolders {
		c.add("survive = %q needs %d holders and max = %d: raise max or remove survive", goal, BaseHolders, m)
		return
	}
	if goal != perigee.SurviveRegion || !c.names || c.rules.none() {
		return
	}
	var left []string
	for _, info := range c.rules.regions.All() {
		if c.rules.mayRun(info.Code) {
			left = append(left, string(info.Code))
		}
	}
	if len(left) == 1 {
		c.add("survive = %q needs holders in two regions, and %s allow only %s: allow another region, or use survive = %q", goal, c.given(), left[0], perigee.SurviveZone)
	}
}

func (c *checker) given() string { return strings.Join(c.rules.active(), " and ") }

// max checks that max leaves room for the holders that pin, warm and callers ask for.
func (c *checker) max() {
	p := c.policy
	switch {
	case p.Max < 0:
		c.add("max = %d: use 1 or more, or 0 for no limit", p.Max)
	case p.Max == 0:
	case p.Max < len(p.Pin):
		c.add("max = %d is less than the %d places of %s, each of which needs a holder: raise max or pin fewer", p.Max, len(p.Pin), c.rules.text(byPin))
	default:
		if n := c.warmHolders(); n > p.Max {
			if len(p.Callers) > 0 {
				c.add("max = %d is less than the %d holders that warm, pin and callers ask for: raise max, keep fewer warm, or run callers in one place", p.Max, n)
				return
			}
			c.add("max = %d is less than the %d holders that warm and pin ask for: raise max or keep fewer warm", p.Max, n)
		}
	}
}

// warmHolders returns a number of holders that warm, pin and callers need at least: of callers, each run one. Places that share no
// region add up, and of a place and those inside it, whichever need more count. Of places that
// overlap in part it counts one; PlanFunction finds out about the others.
func (c *checker) warmHolders() int {
	need := map[string]int{}
	maps.Copy(need, c.policy.Warm)
	for _, s := range c.policy.Pin {
		if t, err := perigee.ParseTerm(s); err == nil && t.Place != "" {
			need[s] = max(need[s], 1)
		}
	}
	most := slices.Max(append(slices.Collect(maps.Values(need)), 0))
	if !c.names {
		return most
	}
	var areas []area
	for _, place := range slices.Sorted(maps.Keys(need)) {
		areas = append(areas, area{c.regionsOf(place), need[place]})
	}
	for _, rule := range c.policy.Callers {
		if run := c.runsIn(rule.Run); run != nil {
			areas = append(areas, area{run, 1})
		}
	}
	slices.SortStableFunc(areas, func(a, b area) int { return cmp.Compare(len(a.regions), len(b.regions)) })
	var disjoint []area
	for _, a := range areas {
		inside := 0
		for _, b := range disjoint {
			if a.shares(b) == len(b.regions) {
				inside += b.need
			}
		}
		disjoint = slices.DeleteFunc(disjoint, func(b area) bool { return a.shares(b) > 0 })
		disjoint = append(disjoint, area{a.regions, max(a.need, inside)})
	}
	sum := 0
	for _, a := range disjoint {
		sum += a.need
	}
	return max(sum, most)
}

// runsIn returns the regions of a list of places; nil = it names nodes or labels, which may be anywhere.
func (c *checker) runsIn(run []string) map[perigee.Region]bool {
	set := map[perigee.Region]bool{}
	for _, s := range run {
		t, _ := perigee.ParseTerm(s)
		if t.Place == "" {
			return nil
		}
		maps.Copy(set, c.regionsOf(s))
	}
	return set
}

// area is a set of regions that needs a number of holders.
type area struct {
	regions map[perigee.Region]bool
	need    int
}

func (a area) shares(b area) (n int) {
	for r := range b.regions {
		if a.regions[r] {
			n++
		}
	}
	return n
}

// regionsOf returns the regions of a place; a place the catalogue lacks counts as one of its own.
func (c *checker) regionsOf(place string) map[perigee.Region]bool {
	t := perigee.Term{Place: place}
	set := map[perigee.Region]bool{}
	for _, info := range c.rules.regions.All() {
		if t.Matches(perigee.NodeClaims{Region: info.Code}, c.rules.regions) {
			set[info.Code] = true
		}
	}
	if len(set) == 0 {
		set[perigee.Region(place)] = true
	}
	return set
}
