package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee/configs"
	"github.com/perigee-edge/perigee/internal/handover"
	"github.com/perigee-edge/perigee/node"
)

// upgradeTime is for the whole of an upgrade: a successor that fails after a minute, and the way back.
const upgradeTime = 3 * time.Minute

func newNodeUpgrade(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "upgrade [PROGRAM]", Short: "Restart this machine's node, or replace it by another release, while it serves",
		Long: "Upgrade starts PROGRAM beside the node of this machine, with the same arguments and sockets. When it is\n" +
			"ready it takes all new requests, and the process before it ends those that it has. If it would not start,\n" +
			"or does not become ready within a minute, the node goes on as it was, and this says why. Without PROGRAM\n" +
			"it is the node's own, as it is on the disk now: for a changed node.toml, or a file that was replaced.",
		Example: "  perigee node upgrade\n  perigee node upgrade /usr/local/bin/perigee-0.2",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := t.configPath()
			cfg, err := configs.Load(path)
			if err != nil {
				return err
			}
			program := ""
			if len(args) > 0 {
				if program, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			c := node.NewSocketClient(node.SocketPath(socketOf(path, cfg)))
			before, err := c.Status(cmd.Context())
			if err != nil {
				return fmt.Errorf("the node of %s does not answer: %s: %w", path, whySilent(err, node.Dir(dataDir(path, cfg))), err)
			}
			s, err := upgrade(cmd.Context(), c, before, program)
			if err != nil {
				return err
			}
			return t.say(cmd, s, "%s runs %s, process %d\n", s.Node, s.Version, s.PID)
		},
	}
}

// upgrade has the node upgraded and waits for the end of it.
func upgrade(ctx context.Context, c *node.Client, before node.Status, program string) (node.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, upgradeTime, fmt.Errorf("upgrade: the node did not say how it ended within %v: `perigee status` asks it, and its log has more", upgradeTime))
	defer cancel()
	if err := c.Upgrade(ctx, program); err != nil {
		return before, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return before, context.Cause(ctx)
		}
		now, err := c.Status(ctx)
		switch {
		case err != nil: // neither process listens for a moment
		case now.Ready && now.Upgrade != "":
			return now, fmt.Errorf("upgrade: %s; %s still runs %s", now.Upgrade, now.Node, now.Version)
		case now.PID != before.PID && now.Ready:
			return now, nil
		}
	}
}

// inherit finds the process to take over from.
func (r *runner) inherit() (err error) {
	r.before, err = handover.Inherit()
	return err
}

// check says whether the node would start, without disturbing one that runs.
func (r *runner) check(t *target, cmd *cobra.Command) error {
	if _, err := acmeConfig(r.path, r.cfg); err != nil {
		return err
	}
	claims, err := r.dir().Check()
	if err != nil {
		return err
	}
	return t.say(cmd, claims, "%s in %s would start\n", claims.ID, claims.Region)
}

// upgradeOnSignal has the node's own program take over at SIGUSR2. The function ends that.
func upgradeOnSignal(ctx context.Context, n *node.Node, log *slog.Logger) (stop func()) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for {
			select {
			case <-asked:
				if err := n.Upgrade(ctx, ""); err != nil {
					log.Warn("SIGUSR2", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(asked)
		cancel(errors.New("the node stops"))
	}
}
