package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

func newExplain(t *target) *cobra.Command {
	return group("explain", "Say why code is where it is, and why a request goes where it goes", newExplainPlacement(t), newExplainRoute(t))
}

func newExplainPlacement(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "placement FUNCTION", Short: "Why each node holds a function, or does not", Args: exactly("FUNCTION"),
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
			if t.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return explainPlacement(cmd, s)
		},
	}
}

func explainPlacement(cmd *cobra.Command, s *node.FunctionStatus) error {
	w := cmd.OutOrStdout()
	rules := spellPolicy(s.Policy())
	if len(rules) == 0 {
		rules = []string{"no [placement]: any node may hold it, two do"}
	}
	fmt.Fprintf(w, "%s, revision %s, %s\n  %s\n\n", s.Name, s.Live.ID, s.Live.Size, strings.Join(rules, "\n  "))
	is := map[perigee.NodeID]perigee.Warmth{}
	for _, h := range s.Holders {
		is[h.Node] = h.Warmth
	}
	out := newTable("NODE", "REGION", "PLAN", "IS", "WHY")
	for _, v := range s.Plan.Verdicts {
		plan := "-"
		switch {
		case v.Warm:
			plan = "warm"
		case v.Chosen:
			plan = "holds"
		}
		now := "-"
		if is[v.Node] > perigee.Absent {
			now = is[v.Node].String()
		}
		out.row(string(v.Node), string(v.Region), plan, now, v.Text())
	}
	if err := out.write(w); err != nil {
		return err
	}
	if s.Calls != nil {
		fmt.Fprintf(w, "\nCalled %s.\n", spellCalls(s.Calls))
	}
	for _, o := range s.Offers[:min(len(s.Offers), 3)] {
		fmt.Fprintf(w, "One more holder, %s in %s, would save callers %d ms of waiting in each second; from %d on demand adds one.\n", o.Node, o.Region, o.Gain, placement.EnterGain)
	}
	for _, u := range s.Plan.Unsatisfied {
		fmt.Fprintf(w, "\nmissing: %s\n", u)
	}
	for _, u := range s.Plan.Relaxed {
		fmt.Fprintf(w, "\nrelaxed: %s\n", u)
	}
	fmt.Fprintf(w, "\nTo change it: perigee placement set %s, or [placement] in perigee.toml and deploy\n", s.Name)
	return nil
}

// spellCalls writes what is asked of a function: "3.2 times a second from syd, 0.5 from fra".
func spellCalls(c *placement.Calls) string {
	regions := slices.SortedFunc(maps.Keys(c.Rates), func(a, b perigee.Region) int {
		return cmp.Or(cmp.Compare(c.Rates[b], c.Rates[a]), cmp.Compare(a, b))
	})
	var out []string
	for _, r := range regions {
		times := ""
		if len(out) == 0 {
			times = " times a second"
		}
		out = append(out, fmt.Sprintf("%.2f%s from %s", c.Rates[r], times, r))
	}
	if len(out) == 0 {
		out = append(out, "by nobody just now")
	}
	return strings.Join(out, ", ") + fmt.Sprintf("; %.1f requests run at once", c.Busy)
}

func newExplainRoute(t *target) *cobra.Command {
	var from, at, prefer, force string
	c := &cobra.Command{
		Use: "route URL", Short: "Which node would serve a request, and why", Args: exactly("URL"),
		Long: "Route asks the node that a client somewhere reaches what it would do with a request now. It is the\n" +
			"same choice, by the same measurements, as for a real request; nothing is sent to the function.",
		Example: "  perigee explain route https://hello.example.com/ --from syd\n  perigee explain route hello.example.com --from 203.0.113.7",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			e, err := p.ExplainRoute(cmd.Context(), args[0], from, at, prefer, force)
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return explainRoute(cmd, &e)
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "where the client is: a `PLACE` like fra, Sydney, an IP address or node:fra-1 (default: beside the node asked)")
	f.StringVar(&at, "at", "", "the `NODE` that the client reaches (default: the nearest one)")
	f.StringVar(&prefer, "prefer", "", "the `REGION` that the client prefers")
	f.StringVar(&force, "force", "", "the `REGION` that the client forces")
	return c
}

func explainRoute(cmd *cobra.Command, e *node.RouteExplanation) error {
	w := cmd.OutOrStdout()
	away := ""
	if e.Client != reachedRegion(e) {
		away = fmt.Sprintf(", about %s away", shortMillis(time.Duration(e.Away)))
	}
	if p := e.Passed; p != nil {
		fmt.Fprintf(w, "A client in %s reaches %s in %s%s.\n", e.Client, p.Node, p.Region, away)
		fmt.Fprintf(w, "Its connection is passed through, still encrypted, to %s in %s: %s excludes %s.\n", e.Entry, e.Region, p.Rule, p.Node)
	} else {
		fmt.Fprintf(w, "A client in %s reaches %s in %s%s.\n", e.Client, e.Entry, e.Region, away)
	}
	if e.Nearer != nil {
		fmt.Fprint(w, spellNearer(e.Nearer))
	}
	if r := e.Refusal; r != nil {
		fmt.Fprintf(w, "%s answers %d: %s\n", e.Function, r.Status, r.Detail)
	} else {
		best := e.Candidates[0]
		fmt.Fprintf(w, "%s runs on %s in %s: %s (%s).\n\n", e.Function, best.Node, best.Region, best.Reason.Text(), best.Reason)
		out := newTable("NODE", "REGION", "IS", "WAY", "SERVICE", "WAIT", "START", "TOTAL", "CHANCE", "IF IT SERVES")
		for _, c := range e.Candidates {
			is, chance := "cold", "-"
			if c.Warm {
				is = "warm"
			}
			if c.Score.Chance > 0 {
				chance = fmt.Sprintf("%.0f%%", 100*c.Score.Chance)
			}
			s := c.Score
			out.row(string(c.Node), string(c.Region), is, shortMillis(s.Way+s.Target), shortMillis(s.Service), shortMillis(s.Wait), shortMillis(s.Start), shortMillis(s.Total), chance, string(c.Reason))
		}
		if err := out.write(w); err != nil {
			return err
		}
		if h := e.Hedge; h != nil {
			fmt.Fprintf(w, "\nA request without a body that may run twice is sent to %s too if %s has not answered after %s (hedge; at most 3 of 100).\n", h.Node, best.Node, shortMillis(time.Duration(h.After)))
		}
	}
	if len(e.Others) > 0 {
		fmt.Fprintln(w, "\nNot asked:")
		out := &table{}
		for _, o := range e.Others {
			out.row("  "+string(o.Node), string(o.Region), o.Text())
		}
		if err := out.write(w); err != nil {
			return err
		}
	}
	if len(e.Changes) > 0 {
		fmt.Fprintln(w, "\nFor another answer:")
		for _, c := range e.Changes {
			fmt.Fprintln(w, "  "+c)
		}
	}
	return nil
}

// spellNearer says what the client hears of a nearer gateway; "" if there is none.
func spellNearer(n *edgeproxy.Nearer) string {
	if n.Node == "" {
		return ""
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s in %s is much nearer to it: %s, not %s.\n", n.Node, n.Region, shortMillis(time.Duration(n.There)), shortMillis(time.Duration(n.Here)))
	if n.AltSvc != "" {
		fmt.Fprintf(&s, "  A browser hears of it (Alt-Svc: %s).\n", n.AltSvc)
	}
	if n.Location != "" {
		fmt.Fprintf(&s, "  A program without credentials is sent there: 307 to %s\n", n.Location)
	} else {
		fmt.Fprintf(&s, "  Nobody is sent there: %s.\n", n.Not)
	}
	return s.String()
}

// shortMillis writes a time for people; "-" for none.
func shortMillis(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case d == 0:
		return "-"
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}

func newWhatIf(t *target) *cobra.Command {
	var lose, add []string
	var rate, spec string
	c := &cobra.Command{
		Use: "what-if", Short: "What would happen if a region were lost, nodes came, or a manifest changed", Args: exactly(),
		Long: "What-if plans and routes as the cluster does, on a copy of what it knows, and says what moves. Nothing\n" +
			"changes. It exits with 1 when something would not be satisfied, not be served, or be too much.",
		Example: "  perigee what-if --lose fra --rate 2x\n  perigee what-if --add syd=2\n  perigee what-if --spec ./hello --lose ams",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := node.WhatIf{Lose: lose}
			if err := readWhatIf(&ask, add, rate); err != nil {
				return err
			}
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if spec != "" {
				if ask.Manifest, err = manifestFor(cmd.Context(), p, spec, cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			o, err := p.WhatIf(cmd.Context(), ask)
			if err != nil {
				return err
			}
			if t.json {
				err = printJSON(cmd.OutOrStdout(), o)
			} else {
				err = printOutcome(cmd, &o)
			}
			if err == nil && troubled(&o) {
				return errReported
			}
			return err
		},
	}
	f := c.Flags()
	f.StringArrayVar(&lose, "lose", nil, "the nodes of a `PLACE` are gone: a region, a group, node:<id> or label:<key>=<value>; may be given several times")
	f.StringArrayVar(&add, "add", nil, "nodes join: `REGION=NUMBER`; may be given several times")
	f.StringVar(&rate, "rate", "", "`FACTOR` of the requests there are now, like 2x")
	f.StringVar(&spec, "spec", "", "the manifest in this `DIR` is deployed")
	return c
}

func readWhatIf(ask *node.WhatIf, add []string, rate string) error {
	if rate != "" {
		if n, err := fmt.Sscanf(strings.TrimSuffix(rate, "x"), "%g", &ask.Rate); n != 1 || err != nil || ask.Rate <= 0 {
			return usagef("--rate %q: use a factor like 2x or 0.5x", rate)
		}
	}
	for _, s := range add {
		region, number, ok := strings.Cut(s, "=")
		a := placement.Added{Region: perigee.Region(region), Nodes: 1}
		if ok {
			if n, err := fmt.Sscanf(number, "%d", &a.Nodes); n != 1 || err != nil || a.Nodes < 1 {
				return usagef("--add %q: use REGION or REGION=NUMBER, like syd=2", s)
			}
		}
		ask.Add = append(ask.Add, a)
	}
	return nil
}

// troubled reports whether anything would be worse than it should be.
func troubled(o *placement.Outcome) bool {
	for _, f := range o.Functions {
		if len(f.Unsatisfied) > 0 {
			return true
		}
		for _, w := range f.Ways {
			if w.Refused != "" {
				return true
			}
		}
	}
	return len(o.Overload) > 0
}

func printOutcome(cmd *cobra.Command, o *placement.Outcome) error {
	w := cmd.OutOrStdout()
	if len(o.Lost) > 0 {
		fmt.Fprintf(w, "Lost: %s\n", joined(o.Lost))
	}
	if len(o.Added) > 0 {
		fmt.Fprintf(w, "Added: %s\n", joined(o.Added))
	}
	fmt.Fprintf(w, "%d functions stay as they are, %d change; %d bundles are copied, %s\n", o.Same, len(o.Functions), o.Copies, o.Bytes)
	for _, f := range o.Functions {
		fmt.Fprintf(w, "\n%s: %s -> %s", f.Function, somewhere(f.Before), somewhere(f.After))
		if f.Copy > 0 {
			fmt.Fprintf(w, ", copies %s", f.Copy)
		}
		fmt.Fprintln(w)
		if f.Calls != nil {
			fmt.Fprintf(w, "  called %s\n", spellCalls(f.Calls))
		}
		for _, id := range f.After {
			if gain := f.Gains[id]; gain > 0 {
				fmt.Fprintf(w, "  %s saves its callers %d ms of waiting in each second\n", id, gain)
			}
		}
		out := newTable("  CLIENTS IN", "NOW", "IN", "THEN", "IN")
		for _, way := range f.Ways {
			then, runs := shortMillis(way.Then), string(way.Runs)
			if way.Refused != "" {
				then, runs = "refused", way.Refused
			}
			out.row("  "+string(way.From), shortMillis(way.Now), string(way.RunsNow), then, runs)
		}
		if err := out.write(w); err != nil {
			return err
		}
		for _, u := range f.Unsatisfied {
			fmt.Fprintln(w, "  missing: "+u)
		}
		for _, u := range f.Relaxed {
			fmt.Fprintln(w, "  relaxed: "+u)
		}
	}
	for _, s := range o.Overload {
		fmt.Fprintf(w, "\ntoo much: %s\n", s)
	}
	return nil
}

// somewhere lists holders, of which there may be none.
func somewhere(ids []perigee.NodeID) string {
	if len(ids) == 0 {
		return "nowhere"
	}
	return joined(ids)
}

// reachedRegion is where the node is that the client reaches.
func reachedRegion(e *node.RouteExplanation) perigee.Region {
	if e.Passed != nil {
		return e.Passed.Region
	}
	return e.Region
}
