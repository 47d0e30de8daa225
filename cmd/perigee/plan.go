package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

func newPlan(t *target) *cobra.Command {
	var opt node.DeployOptions
	c := &cobra.Command{
		Use: "plan [DIR]", Short: "Where the function in DIR would run, on the live cluster", Args: atMost(1),
		Long: "Plan asks a node where the function would be held if it were deployed now, and why each node was\n" +
			"chosen or not. Nothing changes. It exits with 1 when a deploy would be refused.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOptions(&opt); err != nil {
				return err
			}
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			_, live, plan, err := planned(cmd.Context(), p, opt, dirOf(args), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := t.print(cmd, plan, planTable(plan, live)); err != nil {
				return err
			}
			return satisfied(plan)
		},
	}
	placementFlag(c, &opt)
	return c
}

// planTable says of each node whether a function would be held there, what that changes, and why. live is
// the function as it is; nil = there is none.
func planTable(plan *placement.Plan, live *node.FunctionStatus) *table {
	now, size := map[perigee.NodeID]bool{}, perigee.Bytes(0)
	if live != nil {
		size = live.Live.Size
		for _, id := range live.Plan.Holders {
			now[id] = true
		}
	}
	out := newTable("NODE", "REGION", "HOLDS IT", "CHANGE", "WHY")
	for _, v := range plan.Verdicts {
		holds, change := "no", ""
		switch {
		case v.Chosen && v.Warm:
			holds = "warm"
		case v.Chosen:
			holds = "yes"
		}
		switch {
		case v.Chosen && !now[v.Node] && live != nil:
			change = "+ " + size.String()
		case v.Chosen && !now[v.Node]:
			change = "+"
		case !v.Chosen && now[v.Node]:
			change = "- " + size.String()
		}
		out.row(string(v.Node), string(v.Region), holds, change, v.Text())
	}
	return out
}

// dirOf is the function's directory.
func dirOf(args []string) string {
	if len(args) == 0 {
		return "."
	}
	return args[0]
}

// manifestFor reads the manifest in dir with the places of the live cluster, so that an error about one
// names the line. Warnings about its placement go to stderr.
func manifestFor(ctx context.Context, p *node.Person, dir string, stderr io.Writer) (*perigee.Manifest, error) {
	infos, err := p.Regions(ctx)
	if err != nil {
		return nil, err
	}
	regions := perigee.NewRegions(infos)
	m, err := bundle.LoadManifestFor(dir, regions)
	if err != nil {
		return nil, err
	}
	if err := placement.Check(m.Name, &m.Placement, regions); err != nil {
		return nil, misplaced(filepath.Join(dir, bundle.ManifestName)+": ", err)
	}
	warn(stderr, filepath.Join(dir, bundle.ManifestName)+": ", &m.Placement, regions)
	return m, nil
}

// planned asks for the plan of the function in dir, as it would be after a deploy with these options, and for
// the function as it is; nil = there is none.
func planned(ctx context.Context, p *node.Person, opt node.DeployOptions, dir string, stderr io.Writer) (m *perigee.Manifest, live *node.FunctionStatus, plan *placement.Plan, err error) {
	if m, err = manifestFor(ctx, p, dir, stderr); err != nil {
		return nil, nil, nil, err
	}
	if live, _, err = p.Function(ctx, m.Name); err != nil && !errors.Is(err, node.ErrNotFound) {
		return nil, nil, nil, err
	}
	then := *m
	apart, err := opt.Apart(m, live)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: nothing was changed: %w", m.Name, err)
	}
	if apart != nil {
		then.Placement = *apart
	}
	got, err := p.Plan(ctx, &then)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, bundle.ManifestName), err)
	}
	return m, live, &got, nil
}

// misplaced names file and block in each line of an error of placement.Check.
func misplaced(file string, err error) error {
	before := file + "placement."
	return errors.New(before + strings.ReplaceAll(err.Error(), "\n", "\n"+before))
}

// warn says what of a placement changes nothing.
func warn(stderr io.Writer, file string, p *perigee.Policy, regions *perigee.Regions) {
	for _, w := range placement.Warnings(p, regions) {
		fmt.Fprintf(stderr, "warning: %splacement.%s\n", file, w)
	}
}

// satisfied says why a deploy with this plan would be refused.
func satisfied(plan *placement.Plan) error {
	switch {
	case len(plan.Unsatisfied) > 0:
		return fmt.Errorf("the placement of %s can't be satisfied now: %s", plan.Function, strings.Join(plan.Unsatisfied, "; "))
	case len(plan.Holders) == 0:
		return fmt.Errorf("the placement of %s can't be satisfied now: no node may hold it", plan.Function)
	}
	return nil
}
