package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
)

func newPlacement(t *target) *cobra.Command {
	return group("placement", "Where a function may run and should, apart from its code", newPlacementShow(t), newPlacementSet(t))
}

func newPlacementShow(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "show FUNCTION", Short: "The placement that a function obeys", Args: exactly("FUNCTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			s, _, err := p.Function(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return t.say(cmd, s.Policy(), "%s", policyText(s.Function))
		},
	}
}

// policyText writes a function's policy as a manifest does, and where it comes from.
func policyText(fn *perigee.Function) string {
	source := "of the manifest of revision " + string(fn.Live.ID)
	if fn.Placement != nil {
		source = "set apart from the manifest, whose placement is back with: perigee placement set " + fn.Name + " --manifest"
	}
	lines := spellPolicy(fn.Policy())
	if len(lines) == 0 {
		lines = []string{"# no rule: any node may hold it, two do"}
	}
	return "[placement] # " + source + "\n" + strings.Join(lines, "\n") + "\n"
}

// spellPolicy writes the keys of a policy that say anything but their default, one a line.
func spellPolicy(p *perigee.Policy) (out []string) {
	list := func(key string, places []string) {
		if len(places) > 0 {
			out = append(out, key+" = "+spellList(places))
		}
	}
	list("residency", p.Residency)
	list("pin", p.Pin)
	list("forbid", p.Forbid)
	if len(p.Callers) > 0 {
		var rules []string
		for _, c := range p.Callers {
			rules = append(rules, "{ from = "+spellList(c.From)+", run = "+spellList(c.Run)+" }")
		}
		out = append(out, "callers = ["+strings.Join(rules, ", ")+"]")
	}
	list("prefer", p.Prefer)
	word := func(key, value, usual string) {
		if value != "" && value != usual {
			out = append(out, key+" = "+strconv.Quote(value))
		}
	}
	word("near", p.Near, perigee.NearClient)
	if len(p.Warm) > 0 {
		var items []string
		for _, place := range slices.Sorted(maps.Keys(p.Warm)) {
			items = append(items, fmt.Sprintf("%s = %d", place, p.Warm[place]))
		}
		out = append(out, "warm = { "+strings.Join(items, ", ")+" }")
	}
	word("survive", p.Survive, perigee.SurviveNode)
	if p.Max > 0 {
		out = append(out, fmt.Sprintf("max = %d", p.Max))
	}
	word("on_unsatisfiable", p.OnUnsatisfiable, perigee.OnReject)
	return out
}

func spellList(places []string) string {
	quoted := make([]string, len(places))
	for i, s := range places {
		quoted[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
