package bundle

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/strict"
)

// policy checks the form of a placement block and the names in it. Whether its rules contradict
// each other is for package placement to say.
func (c *checker) policy(p *perigee.Policy) {
	c.terms("placement.residency", p.Residency)
	c.terms("placement.pin", p.Pin)
	c.terms("placement.forbid", p.Forbid)
	c.terms("placement.prefer", p.Prefer)
	c.warm(p.Warm)
	if p.Max < 0 || p.Max > maxHolders {
		c.add("placement.max", "%d is out of range: use 1 to %d, or 0 for as many as the other keys ask for", p.Max, maxHolders)
	}
	c.callers(p.Callers)
	if _, err := perigee.ParseNear(p.Near); err != nil {
		c.add("placement.near", "%v", err)
	}
	c.choice("placement.survive", p.Survive, perigee.SurviveNode, perigee.SurviveZone, perigee.SurviveRegion)
	c.choice("placement.on_unsatisfiable", p.OnUnsatisfiable, perigee.OnReject, perigee.OnDegrade)
}

// callers checks the rules about where requests come from. A rule without one of its halves would say
// nothing, or forbid everything.
func (c *checker) callers(rules []perigee.CallerRule) {
	if len(rules) > maxCallerRules {
		c.add("placement.callers", "there are %d rules: use at most %d, or groups that cover several places", len(rules), maxCallerRules)
		return
	}
	for i, r := range rules {
		key := fmt.Sprintf("placement.callers[%d]", i)
		if len(r.From) == 0 {
			c.add(key+".from", "is empty: name the places whose requests this is about")
		}
		if len(r.Run) == 0 {
			c.add(key+".run", "is empty: name the places where requests from there may run")
		}
		c.terms(key+".from", r.From)
		c.terms(key+".run", r.Run)
	}
}

func (c *checker) terms(key string, list []string) {
	if len(list) > maxTerms {
		c.add(key, "there are %d places: use at most %d, or a group or label that covers several", len(list), maxTerms)
		return
	}
	for i, s := range list {
		key := fmt.Sprintf("%s[%d]", key, i)
		term, err := perigee.ParseTerm(s)
		switch {
		case err != nil:
			c.add(key, "%v: a place is a region, a group, node:<id> or label:<key>=<value>", err)
		case slices.Index(list, s) < i:
			c.add(key, "%q is named twice: remove one", s)
		case term.Place != "":
			c.known(key, term.Place)
		}
	}
}

func (c *checker) warm(warm map[string]int) {
	if len(warm) > maxTerms {
		c.add("placement.warm", "there are %d places: use at most %d, or a group that covers several", len(warm), maxTerms)
		return
	}
	for _, place := range slices.Sorted(maps.Keys(warm)) {
		key := "placement.warm." + place
		if err := perigee.CheckLabel(place); err != nil {
			c.add(key, "%v: a key here is a region or a group", err)
		} else {
			c.known(key, place)
		}
		if n := warm[place]; n < 0 || n > maxHolders {
			c.add(key, "%d is out of range: use 0 to %d", n, maxHolders)
		}
	}
}

// known refuses a region or group that the cluster does not have.
func (c *checker) known(key, place string) {
	if c.regions == nil || c.regions.Known(place) {
		return
	}
	var names []string
	for _, info := range c.regions.All() {
		names = append(append(names, string(info.Code)), info.Groups...)
	}
	c.add(key, "this cluster has no region or group %q%s: perigee region ls lists them, perigee region add adds one", place, didYouMean(place, names))
}

// didYouMean returns a remark about a known word that is near to the given one, or "".
func didYouMean(word string, known []string) string {
	if near := strict.Near(word, known); near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}

// list writes choices as people read them: "a", "b" or "c".
func list(choices []string) string {
	quoted := make([]string, len(choices))
	for i, s := range choices {
		quoted[i] = strconv.Quote(s)
	}
	last := len(quoted) - 1
	if last == 0 {
		return quoted[0]
	}
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// quote shortens what somebody wrote to what an error can carry.
func quote(s string) string { return strconv.Quote(s[:min(len(s), 80)]) }
