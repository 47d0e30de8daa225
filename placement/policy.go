package placement

import (
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
)

// Allowed reports whether the hard rules of p permit the function on node n. If not, rule is the
// rule that excludes the node, as the manifest spells it: `pin = ["fra"]`. Being down or busy is
// none of its business.
//
// What the node at hand can't decide is excluded: a place that regions does not know, or a group
// when it does not know the region of n. A nil Policy allows every node.
//
// Allowed is about holding the function. Whether a request may run there depends on where it comes
// from, too: AllowedFrom.
func Allowed(p *perigee.Policy, n perigee.NodeClaims, regions *perigee.Regions) (rule string, ok bool) {
	r := compile(p, regions, make([]perigee.Term, 0, 8))
	ex := r.excludes(n)
	return r.text(ex), ex == nothing
}

// AllowedFrom is Allowed for a request whose caller is in a region: it obeys the rules of callers as
// well. A caller in a region that the catalogue lacks may be anywhere, so all rules whose places it
// can't be told from bind it.
func AllowedFrom(p *perigee.Policy, caller perigee.Region, n perigee.NodeClaims, regions *perigee.Regions) (rule string, ok bool) {
	r := compile(p, regions, make([]perigee.Term, 0, 8))
	r.from(caller)
	ex := r.excludes(n)
	return r.text(ex), ex == nothing
}

// exclusion is the hard rule that excludes a node.
type exclusion uint8

const (
	nothing exclusion = iota
	byResidency
	byPin
	byForbid
	byCallers
	exclusions // how many there are
)

// rules are the hard rules of a policy, ready to be asked about many nodes.
type rules struct {
	policy                 *perigee.Policy
	regions                *perigee.Regions
	residency, pin, forbid []perigee.Term
	unread                 bool // an entry of forbid can't be read, so there is no telling what it forbids
	callers                []callerRule
}

// callerRule is one rule of callers that binds the request at hand.
type callerRule struct {
	number int // its index in the policy
	run    []perigee.Term
}

// compile reads the rules of p. Terms are appended to buf, so that a caller can keep them off the heap.
func compile(p *perigee.Policy, regions *perigee.Regions, buf []perigee.Term) rules {
	if p == nil {
		p = new(perigee.Policy)
	}
	if regions == nil {
		regions = perigee.NewRegions(nil)
	}
	r := rules{policy: p, regions: regions}
	r.residency, buf, _ = parseTerms(p.Residency, buf)
	r.pin, buf, _ = parseTerms(p.Pin, buf)
	r.forbid, _, r.unread = parseTerms(p.Forbid, buf)
	return r
}

// from makes the rules those for requests of callers in a region.
func (r *rules) from(caller perigee.Region) {
	for i := range r.policy.Callers {
		if r.binds(&r.policy.Callers[i], caller) {
			run, _, _ := parseTerms(r.policy.Callers[i].Run, nil)
			r.callers = append(r.callers, callerRule{i, run})
		}
	}
}

// binds reports whether a rule is about callers in the region, or may be: its places can't be read, or
// are not known here. Entries that name nodes or labels are about no caller.
func (r *rules) binds(c *perigee.CallerRule, caller perigee.Region) bool {
	for _, s := range c.From {
		t, err := perigee.ParseTerm(s)
		switch {
		case err != nil:
			return true
		case t.Place == "":
		case t.Matches(perigee.NodeClaims{Region: caller}, r.regions) || r.undecidable(t.Place, caller):
			return true
		}
	}
	return false
}

// parseTerms reads the entries that can be read and reports whether one can't.
func parseTerms(list []string, buf []perigee.Term) (terms, rest []perigee.Term, unread bool) {
	start := len(buf)
	for _, s := range list {
		t, err := perigee.ParseTerm(s)
		if err != nil {
			unread = true
			continue
		}
		buf = append(buf, t)
	}
	return buf[start:len(buf):len(buf)], buf, unread
}

// none reports that no rule can exclude any node.
func (r *rules) none() bool {
	return len(r.policy.Residency) == 0 && len(r.policy.Pin) == 0 && len(r.policy.Forbid) == 0 && len(r.callers) == 0
}

// excludes returns the first rule, in the order residency, pin, forbid, callers, that excludes the node.
func (r *rules) excludes(n perigee.NodeClaims) exclusion {
	switch {
	case len(r.policy.Residency) > 0 && !r.inAny(r.residency, n):
		return byResidency
	case len(r.policy.Pin) > 0 && !r.inAny(r.pin, n):
		return byPin
	case r.unread || r.forbids(n):
		return byForbid
	}
	for i := range r.callers {
		if !r.inAny(r.callers[i].run, n) {
			return byCallers
		}
	}
	return nothing
}

// regional reports that the rules can't tell two nodes of one region apart.
func (r *rules) regional() bool {
	byPlace := func(terms []perigee.Term) bool {
		return !slices.ContainsFunc(terms, func(t perigee.Term) bool { return t.Place == "" })
	}
	return byPlace(r.residency) && byPlace(r.pin) && byPlace(r.forbid) &&
		!slices.ContainsFunc(r.callers, func(c callerRule) bool { return !byPlace(c.run) })
}

func (r *rules) inAny(terms []perigee.Term, n perigee.NodeClaims) bool {
	for _, t := range terms {
		if t.Matches(n, r.regions) {
			return true
		}
	}
	return false
}

func (r *rules) forbids(n perigee.NodeClaims) bool {
	for _, t := range r.forbid {
		if t.Matches(n, r.regions) || t.Place != "" && r.undecidable(t.Place, n.Region) {
			return true
		}
	}
	return false
}

// undecidable reports that nobody here can say whether region is in place: the catalogue lacks the
// place, or it lacks the region and the place is a group. Records of regions may arrive after the
// functions and nodes that need them.
func (r *rules) undecidable(place string, region perigee.Region) bool {
	if !r.regions.Known(place) {
		return true
	}
	if _, known := r.regions.Lookup(region); known {
		return false
	}
	return slices.ContainsFunc(r.regions.All(), func(info perigee.RegionInfo) bool {
		return slices.Contains(info.Groups, place)
	})
}

// anyRegion reports whether a region of the catalogue that is in the place passes the test.
func (r *rules) anyRegion(place perigee.Term, test func(perigee.Region) bool) bool {
	return slices.ContainsFunc(r.regions.All(), func(info perigee.RegionInfo) bool {
		return place.Matches(perigee.NodeClaims{Region: info.Code}, r.regions) && test(info.Code)
	})
}

// mayRun reports whether the rules leave room for a node in the region, as far as that can be said
// without knowing the node: entries that name nodes or labels might match it.
func (r *rules) mayRun(region perigee.Region) bool {
	n := perigee.NodeClaims{Region: region}
	return r.resides(region) && r.mayMatch(r.policy.Pin, r.pin, n) && !r.forbids(n)
}

// anywhere reports whether mayRun holds for any region, callers' rules included.
func (r *rules) anywhere() bool {
	return slices.ContainsFunc(r.regions.All(), func(info perigee.RegionInfo) bool {
		n := perigee.NodeClaims{Region: info.Code}
		for i, c := range r.callers {
			if !r.mayMatch(r.policy.Callers[c.number].Run, r.callers[i].run, n) {
				return false
			}
		}
		return r.mayRun(info.Code)
	})
}

// resides is mayRun for residency alone.
func (r *rules) resides(region perigee.Region) bool {
	return r.mayMatch(r.policy.Residency, r.residency, perigee.NodeClaims{Region: region})
}

func (r *rules) mayMatch(list []string, terms []perigee.Term, n perigee.NodeClaims) bool {
	return len(list) == 0 || r.inAny(terms, n) ||
		slices.ContainsFunc(terms, func(t perigee.Term) bool { return t.Place == "" })
}

// text spells a rule as the manifest does.
func (r *rules) text(ex exclusion) string {
	switch ex {
	case byResidency:
		return spell("residency", r.policy.Residency)
	case byPin:
		return spell("pin", r.policy.Pin)
	case byForbid:
		return spell("forbid", r.policy.Forbid)
	case byCallers:
		var list []string
		for _, c := range r.callers {
			list = append(list, spellCaller(&r.policy.Callers[c.number]))
		}
		return "callers = [" + strings.Join(list, ", ") + "]"
	}
	return ""
}

// maxSpelled bounds the entries of a list in a message.
const maxSpelled = 8

// spellCaller writes a rule of callers as the manifest does.
func spellCaller(c *perigee.CallerRule) string {
	return "{ " + spell("from", c.From) + ", " + spell("run", c.Run) + " }"
}

// spell writes a list of the manifest: `pin = ["fra", "ams"]`.
func spell(key string, list []string) string {
	var b strings.Builder
	b.WriteString(key + " = [")
	for i, s := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == maxSpelled {
			b.WriteString("and " + strconv.Itoa(len(list)-i) + " more")
			break
		}
		b.WriteString(strconv.Quote(s))
	}
	b.WriteString("]")
	return b.String()
}

// active spells the rules that the policy has.
func (r *rules) active() []string {
	var out []string
	if len(r.policy.Residency) > 0 {
		out = append(out, r.text(byResidency))
	}
	if len(r.policy.Pin) > 0 {
		out = append(out, r.text(byPin))
	}
	if len(r.policy.Forbid) > 0 {
		out = append(out, r.text(byForbid))
	}
	if len(r.callers) > 0 {
		out = append(out, r.text(byCallers))
	}
	return out
}
