package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/strict"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

// placementChange is what the flags of `placement set` ask for.
type placementChange struct {
	file     string // the whole placement is the one of this file
	manifest bool   // the whole placement is the live manifest's again
	keys     perigee.Policy
	callers  []string
	warm     []string
	given    []string // the keys that were given

	dryRun  bool
	expect  string
	until   string
	timeout time.Duration
}

func newPlacementSet(t *target) *cobra.Command {
	var ch placementChange
	c := &cobra.Command{
		Use: "set FUNCTION", Short: "Change where a function runs, without a new bundle", Args: exactly("FUNCTION"),
		Long: "Set changes the placement of a live function: its code stays what it is, and goes on serving. Each flag\n" +
			"replaces one key of the placement that holds now, and an empty value takes the key away. With --file the\n" +
			"whole placement is that of a manifest's [placement], or of what `perigee placement show` printed.\n\n" +
			"It is checked as a deploy is. Where no node of the new plan has the bundle yet, one gets it first. Then\n" +
			"nodes that the hard rules exclude stop at once and delete the bundle and the keys of its secrets.\n\n" +
			"From then on the placement is set apart from the manifest, and stays over deploys until --manifest puts\n" +
			"the manifest's back. `perigee placement show` says what holds.",
		Example: "  perigee placement set shop --residency eu\n" +
			"  perigee placement set shop --pin fra,ams --warm fra=2 --dry-run\n" +
			"  perigee placement set shop --callers eu=eu --callers sao=sao\n" +
			"  perigee placement set shop --pin ''                 # no pin any more\n" +
			"  perigee placement set shop --file shop/perigee.toml",
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.Flags().Visit(func(f *pflag.Flag) {
				if ch.setKey(new(perigee.Policy), f.Name) {
					ch.given = append(ch.given, f.Name)
				}
			})
			wait, err := parseWait(ch.until, ch.timeout)
			if err != nil {
				return err
			}
			if err := ch.check(); err != nil {
				return err
			}
			act := t.signer
			if ch.dryRun {
				act = t.person
			}
			p, done, err := act(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			return ch.run(t, cmd, p, args[0], wait)
		},
	}
	f := c.Flags()
	f.StringVar(&ch.file, "file", "", "take the whole placement from this `FILE`, a perigee.toml or its directory; - = standard input")
	f.BoolVar(&ch.manifest, "manifest", false, "take the whole placement from the manifest of the live revision")
	f.StringSliceVar(&ch.keys.Residency, "residency", nil, "the code, its secrets and keys are only in these `PLACES`")
	f.StringSliceVar(&ch.keys.Pin, "pin", nil, "it runs only in these `PLACES`, with a holder in each")
	f.StringSliceVar(&ch.keys.Forbid, "forbid", nil, "it never runs in these `PLACES`")
	f.StringArrayVar(&ch.callers, "callers", nil, "requests `FROM=RUN`, places with commas between them, run only there; may be given several times")
	f.StringSliceVar(&ch.keys.Prefer, "prefer", nil, "these `PLACES` first, in this order")
	f.StringVar(&ch.keys.Near, "near", "", "close to this `TARGET`: client, host:<name>:<port> or fn:<name>")
	f.StringSliceVar(&ch.warm, "warm", nil, "`PLACE=NUMBER` of holders that keep it loaded")
	f.StringVar(&ch.keys.Survive, "survive", "", "`WHAT` may be lost at once: node, zone or region")
	f.IntVar(&ch.keys.Max, "max", 0, "at most this `NUMBER` of holders; 0 = no limit")
	f.StringVar(&ch.keys.OnUnsatisfiable, "on-unsatisfiable", "", "`reject` or degrade, when the cluster can't give all of it")
	f.BoolVar(&ch.dryRun, "dry-run", false, "say what would change, and change nothing")
	f.StringVar(&ch.expect, "if-revision", "", "only if this `REVISION` is live now")
	f.StringVar(&ch.until, "wait", "all", "`WHAT` to wait for: all planned holders, those of a region or group, or a number of them; a time means all, at most so long; 0 = do not wait")
	f.DurationVar(&ch.timeout, "timeout", time.Minute, "wait at most for this `TIME`")
	return c
}

// check refuses flags that contradict each other, and reads those that are not simple values.
func (ch *placementChange) check() error {
	ways := 0
	for _, way := range []bool{ch.file != "", ch.manifest, len(ch.given) > 0} {
		if way {
			ways++
		}
	}
	switch {
	case ways == 0:
		return usagef("nothing to set: give keys like --residency eu, or --file, or --manifest")
	case ways > 1:
		return usagef("give keys like --residency eu, or --file, or --manifest: each says the whole of what is to be")
	}
	for _, rule := range ch.callers {
		from, run, ok := strings.Cut(rule, "=")
		if rule == "" {
			continue
		}
		if !ok || from == "" || run == "" {
			return usagef("--callers %q: use FROM=RUN, like eu=eu", rule)
		}
		ch.keys.Callers = append(ch.keys.Callers, perigee.CallerRule{From: strings.Split(from, ","), Run: strings.Split(run, ",")})
	}
	for _, item := range ch.warm {
		place, number, ok := strings.Cut(item, "=")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			return usagef("--warm %q: use PLACE=NUMBER, like fra=1", item)
		}
		if ch.keys.Warm == nil {
			ch.keys.Warm = map[string]int{}
		}
		ch.keys.Warm[place] = n
	}
	return nil
}

// policy returns the placement that is asked for; nil = the manifest's.
func (ch *placementChange) policy(cmd *cobra.Command, live *node.FunctionStatus, regions *perigee.Regions) (*perigee.Policy, error) {
	switch {
	case ch.manifest:
		return nil, nil
	case ch.file != "":
		file, b, err := readPlacement(cmd, ch.file)
		if err != nil {
			return nil, err
		}
		name, p, err := bundle.ParsePlacement(file, b, regions)
		if err == nil && name != "" && name != live.Name {
			err = fmt.Errorf("%s is the manifest of %s, not of %s", file, name, live.Name)
		}
		if err != nil {
			return nil, err
		}
		if err := placement.Check(live.Name, p, regions); err != nil {
			return nil, misplaced(file+": ", err)
		}
		warn(cmd.ErrOrStderr(), file+": ", p, regions)
		return p, nil
	}
	p := *live.Policy()
	for _, key := range ch.given {
		ch.setKey(&p, key)
	}
	if err := bundle.CheckPlacement(&p, regions); err != nil {
		return nil, err
	}
	if err := placement.Check(live.Name, &p, regions); err != nil {
		return nil, misplaced("", err)
	}
	warn(cmd.ErrOrStderr(), "", &p, regions)
	return &p, nil
}

// setKey takes one key from the flags; an empty value is the default. It reports whether the flag is a key's.
func (ch *placementChange) setKey(p *perigee.Policy, key string) bool {
	or := func(value, usual string) string {
		if value == "" {
			return usual
		}
		return value
	}
	k := &ch.keys
	switch key {
	case "residency":
		p.Residency = k.Residency
	case "pin":
		p.Pin = k.Pin
	case "forbid":
		p.Forbid = k.Forbid
	case "callers":
		p.Callers = k.Callers
	case "prefer":
		p.Prefer = k.Prefer
	case "near":
		p.Near = or(k.Near, perigee.NearClient)
	case "warm":
		p.Warm = k.Warm
	case "survive":
		p.Survive = or(k.Survive, perigee.SurviveNode)
	case "max":
		p.Max = k.Max
	case "on-unsatisfiable":
		p.OnUnsatisfiable = or(k.OnUnsatisfiable, perigee.OnReject)
	default:
		return false
	}
	return true
}

// readPlacement reads a file, the manifest in a directory, or standard input.
func readPlacement(cmd *cobra.Command, file string) (name string, b []byte, err error) {
	if file == "-" {
		b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), strict.MaxBytes+1))
		return "standard input", b, err
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, bundle.ManifestName)
	}
	b, err = strict.ReadFile(file)
	return file, b, err
}

// run makes the change, or says what it would be.
func (ch *placementChange) run(t *target, cmd *cobra.Command, p *node.Person, name string, wait deployWait) error {
	ctx := cmd.Context()
	live, _, err := p.Function(ctx, name)
	if err != nil {
		return err
	}
	infos, err := p.Regions(ctx)
	if err != nil {
		return err
	}
	policy, err := ch.policy(cmd, live, perigee.NewRegions(infos))
	if err != nil {
		return err
	}
	m := live.Live.Manifest
	if policy != nil {
		m.Placement = *policy
	}
	plan, err := p.Plan(ctx, &m)
	if err != nil {
		return err
	}
	if ch.dryRun {
		if err := t.print(cmd, &plan, planTable(&plan, live)); err != nil {
			return err
		}
		return satisfied(&plan)
	}
	d, err := p.SetPlacement(ctx, name, policy, perigee.RevisionID(ch.expect))
	if err != nil {
		return err
	}
	before := live.Head
	if !d.Changed {
		before = perigee.Digest{}
	}
	s, err := awaitPlacement(ctx, p, name, before, wait, newProgress(cmd.ErrOrStderr()))
	if err != nil {
		return err
	}
	return reportPlacement(t, cmd, d, s, planTable(&plan, live), wait)
}

// awaitPlacement waits until another pointer than the one before is in force, its holders are as warm as it wants them, and the nodes
// that it excludes have let go, or wait is over.
func awaitPlacement(ctx context.Context, p *node.Person, name string, before perigee.Digest, wait deployWait, show *progress) (*node.FunctionStatus, error) {
	defer show.end()
	for start := time.Now(); ; {
		s, _, err := p.Function(ctx, name)
		if err != nil {
			return nil, err
		}
		waited := time.Since(start)
		if s.Head != before && (wait.over(s) && len(leaving(s)) == 0 || waited >= wait.limit) || waited >= max(wait.limit, settleTime) {
			return s, nil
		}
		show.pending("warm on %s", warmth(s))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// leaving lists the nodes that the hard rules exclude and that still say that they have the function.
func leaving(s *node.FunctionStatus) (ids []perigee.NodeID) {
	has := map[perigee.NodeID]bool{}
	for _, h := range s.Holders {
		has[h.Node] = h.Warmth > perigee.Absent && (h.State == perigee.NodeAlive || h.State == perigee.NodeSuspect)
	}
	for _, v := range s.Plan.Verdicts {
		if v.Reason == placement.ReasonNotAllowed && has[v.Node] {
			ids = append(ids, v.Node)
		}
	}
	return ids
}

// reportPlacement says what holds now. Its error names what was waited for and is not so.
func reportPlacement(t *target, cmd *cobra.Command, d node.Placed, s *node.FunctionStatus, changes *table, wait deployWait) error {
	left := leaving(s)
	if t.json {
		if err := printJSON(cmd.OutOrStdout(), struct {
			node.Placed
			Function *node.FunctionStatus `json:"function"`
			Ready    bool                 `json:"ready"`
			Leaving  []perigee.NodeID     `json:"leaving,omitempty"`
		}{d, s, s.Ready() && len(left) == 0, left}); err != nil {
			return err
		}
	} else {
		w := cmd.OutOrStdout()
		if !d.Changed {
			fmt.Fprintf(w, "%s: this placement holds already\n", s.Name)
			return nil
		}
		if d.Brought != "" {
			fmt.Fprintf(w, "copied to %s first, since no node of the new plan had it\n", d.Brought)
		}
		if err := changes.write(w); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s: placement changed, revision %s stays live, warm on %s; stored on %s\n", s.Name, s.Live.ID, warmth(s), joined(d.Stored))
	}
	if d.Changed && wait.limit > 0 && !wait.over(s) {
		return fmt.Errorf("%s: not warm %s after %v (%s): it goes on by itself, and `perigee show %s` says how far it is", s.Name, wait, wait.limit, warmth(s), s.Name)
	}
	if len(left) > 0 && wait.limit > 0 {
		return errors.New(s.Name + ": " + joined(left) + " may not hold it any more and still does: see its log; requests do not go there")
	}
	return nil
}
