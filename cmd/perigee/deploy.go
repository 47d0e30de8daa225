package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
)

// settleTime is how long a record may take to show on the node that wrote it.
const settleTime = 2 * time.Second

func newDeploy(t *target) *cobra.Command {
	var until string
	var timeout time.Duration
	var opt node.DeployOptions
	var noBuild bool
	c := &cobra.Command{
		Use: "deploy [DIR]", Short: "Make the function in DIR live", Args: atMost(1),
		Long: "Deploy builds the function (the manifest's build command), checks it, signs a revision with your key and\n" +
			"hands it to a node, which finds it a holder that compiles it, and another that keeps a copy. Then it is\n" +
			"live, and deploy waits until all planned holders have it warm, those of a region, or some of them.\n\n" +
			"It exits with 1 when the revision is not live, not warm in time, or not reachable because\n" +
			"another function has its host and path.",
		Example: "  perigee deploy\n  perigee deploy hello/ --no-build --wait 5m\n" +
			"  perigee deploy --wait fra                       # until it is warm in Frankfurt\n" +
			"  perigee deploy --if-revision 3f9a1b2c4d5e       # only in the place of this one",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, dir := cmd.Context(), dirOf(args)
			wait, err := parseWait(until, timeout)
			if err != nil {
				return err
			}
			if err := checkOptions(&opt); err != nil {
				return err
			}
			if _, err := bundle.LoadManifest(dir); err != nil { // needs no cluster
				return err
			}
			p, done, err := t.signer(ctx)
			if err != nil {
				return err
			}
			defer done()
			// What the cluster would refuse is said before a build that may take minutes.
			m, _, plan, err := planned(ctx, p, opt, dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := satisfied(plan); err != nil {
				return err
			}
			archive, err := pack(ctx, dir, m, !noBuild, cmd.ErrOrStderr())
			if errors.As(err, new(*exec.ExitError)) {
				return fmt.Errorf("%w: mend it, or use the Wasm file as it is with --no-build", err)
			}
			if err != nil {
				return err
			}
			d, status, err := deployAndWait(ctx, p, opt, m, archive, wait, newProgress(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			if err := reportDeploy(t, cmd, d, status, wait); err != nil {
				return err
			}
			adviseDNS(cmd.Context(), cmd.ErrOrStderr(), p, hostsOf(status))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&until, "wait", "all", "`WHAT` to wait for until it is warm: all planned holders, those of a region or group, or a number of them; a time means all, at most so long; 0 = do not wait")
	f.DurationVar(&timeout, "timeout", time.Minute, "wait at most for this `TIME`")
	optionFlags(c, &opt)
	f.BoolVar(&noBuild, "no-build", false, "use the Wasm file as it is")
	return c
}

// prepare reads, builds, packs and checks a function without a cluster.
func prepare(ctx context.Context, dir string, stderr io.Writer) (*perigee.Manifest, *bundle.Archive, error) {
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		return nil, nil, err
	}
	archive, err := pack(ctx, dir, m, true, stderr)
	return m, archive, err
}

// pack builds, packs and checks a function on the author's machine.
func pack(ctx context.Context, dir string, m *perigee.Manifest, build bool, stderr io.Writer) (*bundle.Archive, error) {
	if build && m.Build != "" {
		if err := runBuild(ctx, dir, m.Build, stderr); err != nil {
			return nil, err
		}
	}
	archive, err := bundle.Pack(dir, m)
	if err != nil {
		return nil, err
	}
	if _, err := runtime.Check(archive.Wasm); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, m.Wasm), err)
	}
	return archive, nil
}

func runBuild(ctx context.Context, dir, command string, stderr io.Writer) error {
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.Dir, c.Stdout, c.Stderr = dir, stderr, stderr
	c.WaitDelay = time.Second // what the shell started may keep its outputs open
	err := c.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("build %s: %q: %w", dir, command, err)
	}
	return nil
}

// deployAndWait deploys and follows the holders until all are warm, or wait is over.
func deployAndWait(ctx context.Context, p *node.Person, opt node.DeployOptions, m *perigee.Manifest, archive *bundle.Archive, wait deployWait, show *progress) (node.Deployed, *node.FunctionStatus, error) {
	defer show.end()
	body := archive.Open()
	defer body.Close()
	show.pending("sending %s (%s), to be checked and compiled", m.Name, size(perigee.Bytes(archive.Size)))
	d, err := p.DeployWith(ctx, opt, m, archive.Digest, perigee.Bytes(archive.Size), body, func(e node.DeployEvent) {
		switch e.Step {
		case "admitted":
			show.step("checked, compiled and stored on %s", e.Node)
		case "copied":
			show.step("copied to %s", e.Node)
		case "waiting":
			show.step("%s can't take it now: %s", e.Node, e.Detail)
		}
	})
	if err != nil {
		return d, nil, err
	}
	if d.Changed {
		show.step("recorded on %s", joined(d.Stored))
	} else {
		show.step("revision %s is live already: nothing to do", d.Revision)
	}
	for start := time.Now(); ; {
		s, _, err := p.Function(ctx, m.Name)
		if err != nil {
			return d, nil, err
		}
		if stopped(s, d.Revision) {
			return d, s, nil
		}
		live, waited := s.Live.ID == d.Revision, time.Since(start)
		if live && (wait.over(s) || waited >= wait.limit) || waited >= max(wait.limit, settleTime) {
			return d, s, nil
		}
		show.pending("warm on %s", warmth(s))
		select {
		case <-ctx.Done():
			return d, nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stopped reports whether the rollout of a revision ended before it ran everywhere.
func stopped(s *node.FunctionStatus, id perigee.RevisionID) bool {
	return s.Rollout != nil && s.Rollout.Stage == placement.StageStopped && s.Rollout.Live == id
}

// warmth says "2 of 3: waiting for syd-1".
func warmth(s *node.FunctionStatus) string {
	var missing []string
	warm, wanted, cold := 0, 0, 0
	for _, h := range s.Holders {
		switch h.Wanted {
		case perigee.Warm:
			wanted++
			if h.Warmth == perigee.Warm {
				warm++
			}
		case perigee.Held:
			cold++
		}
		if h.Warmth < h.Wanted {
			missing = append(missing, string(h.Node))
		}
	}
	text := fmt.Sprintf("%d of %d", warm, wanted)
	if cold > 0 {
		text += fmt.Sprintf(", held cold on %d more", cold)
	}
	if len(missing) > 0 {
		text += ": waiting for " + strings.Join(missing, ", ")
	}
	return text
}

// reportDeploy says what is live where. Its error names what was asked for and is not so.
func reportDeploy(t *target, cmd *cobra.Command, d node.Deployed, s *node.FunctionStatus, wait deployWait) error {
	if t.json {
		if err := printJSON(cmd.OutOrStdout(), struct {
			node.Deployed
			Function *node.FunctionStatus `json:"function"`
			Ready    bool                 `json:"ready"`
		}{d, s, s.Ready()}); err != nil {
			return err
		}
	} else {
		w := cmd.OutOrStdout()
		how := "is live, warm on " + warmth(s)
		if stopped(s, d.Revision) {
			how = "is recorded and does not serve"
		}
		fmt.Fprintf(w, "%s: revision %s %s\n", s.Name, d.Revision, how)
		for _, u := range s.URLs {
			fmt.Fprintf(w, "  %s\n", u)
		}
		if s.Placement != nil {
			fmt.Fprintf(w, "its placement stays as it was set apart from the manifest: perigee placement show %s\n", s.Name)
		}
		if len(s.URLs) > 0 {
			fmt.Fprintf(w, "try it from here: perigee invoke %s\n", s.Name)
		}
	}
	var amiss []string
	if s.Live.ID != d.Revision {
		amiss = append(amiss, fmt.Sprintf("revision %s of key %s was deployed at the same time and won: deploy again to replace it", s.Live.ID, s.Live.Author))
	} else if stopped(s, d.Revision) {
		amiss = append(amiss, fmt.Sprintf("the rollout %s; the log of the node says why", s.Rollout.Text()))
	} else if !wait.over(s) && wait.limit > 0 {
		amiss = append(amiss, fmt.Sprintf("not warm %s after %v (%s): it goes on by itself, and `perigee show %s` says how far it is", wait, wait.limit, warmth(s), s.Name))
	}
	for _, r := range s.Contested {
		amiss = append(amiss, fmt.Sprintf("%s%s belongs to function %s, which claimed it first: choose another host or path", r.Route.Host, r.Route.Path, r.Owner))
	}
	if len(amiss) > 0 {
		return errors.New(s.Name + ": " + strings.Join(amiss, "; "))
	}
	return nil
}
