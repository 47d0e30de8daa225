package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

// Which placement a revision gets that becomes live again.
const (
	placementCurrent  = "current"
	placementRevision = "revision"
)

func newPromote(t *target) *cobra.Command {
	var own string
	c := &cobra.Command{
		Use: "promote FUNCTION REVISION", Short: "Make a revision live that the cluster has, and settle conflicts", Args: exactly("FUNCTION", "REVISION"),
		Long: "Promote makes a revision of `perigee show FUNCTION` the live one. It takes the place of everything that is\n" +
			"live or in conflict. The hard placement rules that hold now (residency, pin, forbid, callers) stay, unless\n" +
			"--placement revision asks for those that the revision was deployed with.",
		Example: "  perigee promote shop 3f9a1b2c4d5e",
		RunE: func(cmd *cobra.Command, args []string) error {
			return goTo(t, cmd, args[0], own, func(p *node.Person, own bool) (node.Deployed, error) {
				return p.Promote(cmd.Context(), args[0], perigee.RevisionID(args[1]), own)
			})
		},
	}
	placementFlag(c, &own)
	return c
}

func newRollback(t *target) *cobra.Command {
	var own string
	c := &cobra.Command{
		Use: "rollback FUNCTION", Short: "Go back to the revision that served before", Args: exactly("FUNCTION"),
		Long: "Rollback makes the revision live that served before the live one; holders keep the last two for that.\n" +
			"`perigee promote` goes to any other. The hard placement rules that hold now (residency, pin, forbid,\n" +
			"callers) stay, unless --placement revision asks for those that the revision was deployed with.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return goTo(t, cmd, args[0], own, func(p *node.Person, own bool) (node.Deployed, error) {
				return p.Rollback(cmd.Context(), args[0], own)
			})
		},
	}
	placementFlag(c, &own)
	return c
}

func placementFlag(c *cobra.Command, own *string) {
	c.Flags().StringVar(own, "placement", placementCurrent, "`WHOSE` hard placement rules: current or revision")
}

// goTo makes another revision live and says so.
func goTo(t *target, cmd *cobra.Command, name, placement string, change func(p *node.Person, own bool) (node.Deployed, error)) error {
	if placement != placementCurrent && placement != placementRevision {
		return usagef("--placement %q: use current or revision", placement)
	}
	p, done, err := t.signer(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	d, err := change(p, placement == placementRevision)
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
