package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

func newPromote(t *target) *cobra.Command {
	var opt node.DeployOptions
	c := &cobra.Command{
		Use: "promote FUNCTION REVISION", Short: "Make a revision live that the cluster has, and settle conflicts", Args: exactly("FUNCTION", "REVISION"),
		Long: "Promote makes a revision of `perigee show FUNCTION` the live one. It takes the place of everything that is\n" +
			"live or in conflict. The hard placement rules that hold now (residency, pin, forbid, callers) stay, unless\n" +
			"--placement manifest asks for those that the revision was deployed with.",
		Example: "  perigee promote shop 3f9a1b2c4d5e",
		RunE: func(cmd *cobra.Command, args []string) error {
			return goTo(t, cmd, args[0], &opt, func(p *node.Person) (node.Deployed, error) {
				return p.Promote(cmd.Context(), args[0], perigee.RevisionID(args[1]), opt)
			})
		},
	}
	optionFlags(c, &opt)
	return c
}

func newRollback(t *target) *cobra.Command {
	var opt node.DeployOptions
	c := &cobra.Command{
		Use: "rollback FUNCTION", Short: "Go back to the revision that served before", Args: exactly("FUNCTION"),
		Long: "Rollback makes the revision live that served before the live one; holders keep the last two for that.\n" +
			"`perigee promote` goes to any other. The hard placement rules that hold now (residency, pin, forbid,\n" +
			"callers) stay, unless --placement manifest asks for those that the revision was deployed with.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return goTo(t, cmd, args[0], &opt, func(p *node.Person) (node.Deployed, error) {
				return p.Rollback(cmd.Context(), args[0], opt)
			})
		},
	}
	optionFlags(c, &opt)
	return c
}

// optionFlags adds the flags of everything that makes a revision live.
func optionFlags(c *cobra.Command, opt *node.DeployOptions) {
	f := c.Flags()
	f.StringVar((*string)(&opt.If), "if-revision", "", "only if this `REVISION` is live now; none = only if there is no such function")
	placementFlag(c, opt)
	f.StringVar(&opt.Rollout, "rollout", rolloutStaged, "`HOW` it spreads: staged (one node, then its region, then all) or all (everywhere at once, also where it failed)")
}

// placementFlag adds the flag of what a deploy does with a placement that was set apart.
func placementFlag(c *cobra.Command, opt *node.DeployOptions) {
	c.Flags().StringVar(&opt.Placement, "placement", "", "`WHOSE` placement, where they differ: keep (what holds now) or manifest (the revision's)")
}

const rolloutStaged = "staged"

// checkOptions refuses values that optionFlags does not name, and puts defaults in their form.
func checkOptions(opt *node.DeployOptions) error {
	switch opt.Placement {
	case "", node.PlacementKeep, node.PlacementManifest:
	default:
		return usagef("--placement %q: use keep or manifest", opt.Placement)
	}
	switch opt.Rollout {
	case rolloutStaged:
		opt.Rollout = ""
	case "", placement.RolloutAll:
	default:
		return usagef("--rollout %q: use staged or all", opt.Rollout)
	}
	return nil
}

// goTo makes another revision live and says so.
func goTo(t *target, cmd *cobra.Command, name string, opt *node.DeployOptions, change func(p *node.Person) (node.Deployed, error)) error {
	if err := checkOptions(opt); err != nil {
		return err
	}
	p, done, err := t.signer(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	d, err := change(p)
	if err != nil {
		return err
	}
	if !d.Changed {
		return t.say(cmd, d, "%s: revision %s is live already, and nothing is in conflict with it\n", name, d.Revision)
	}
	return t.say(cmd, d, "%s: revision %s is live; stored on %s\n", name, d.Revision, joined(d.Stored))
}

// printRevisions lists what a function has, newest first, and what is to be settled.
func printRevisions(cmd *cobra.Command, f *node.FunctionStatus) error {
	w := cmd.OutOrStdout()
	out := newTable("REVISION", "STATE", "AGE", "KEY", "ON")
	for _, r := range f.Revisions {
		out.row(string(r.ID), r.State, age(r.Created), string(r.Author), joined(r.Nodes))
	}
	if err := out.write(w); err != nil {
		return err
	}
	if f.Rollout != nil {
		fmt.Fprintf(w, "rollout of %s: %s\n", f.Rollout.Live, f.Rollout.Text())
	}
	for _, c := range f.Conflicts {
		what := "deployed revision " + string(c.Revision)
		if c.Revision == "" {
			what = "removed it"
		}
		fmt.Fprintf(w, "conflict: key %s %s %s ago, at the same time as the live one\n", c.Author, what, age(c.Created))
	}
	if len(f.Conflicts) > 0 {
		fmt.Fprintf(w, "settle it with `perigee promote %s REVISION`, or deploy again\n", f.Name)
	}
	for _, r := range f.Contested {
		fmt.Fprintf(w, "contested: %s%s belongs to function %s, which claimed it first\n", r.Route.Host, r.Route.Path, r.Owner)
	}
	return nil
}
