package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

func newNode(t *target) *cobra.Command {
	return group("node", "Run this machine's node; list and remove members",
		newNodeRun(t), newNodeLs(t), newNodeDrain(t), newNodeUpgrade(t), newNodeRm(t))
}

func newNodeLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the members", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			nodes, err := p.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			out := newTable("NODE", "REGION", "STATE", "ADDRESS", "RTT", "OVER", "WARM", "ROLES", "VERSION", "CLOCK", "CERTIFICATE")
			for _, n := range nodes {
				state, rtt := string(n.State), millis(time.Duration(n.RTT))
				if n.Draining {
					state += ", draining"
				}
				if n.Full {
					state += ", disk full"
				}
				if n.Self {
					rtt = "this node"
				}
				warm := 0
				for _, w := range n.Revisions {
					if w == perigee.Warm {
						warm++
					}
				}
				out.row(string(n.ID), string(n.Region), state, n.Addr.String(), rtt, n.Over, fmt.Sprint(warm), joined(n.Roles), n.Version,
					clockOff(n.ClockOff), daysLeft(n.Expires))
			}
			return t.print(cmd, nodes, out)
		},
	}
}

// clockOff says how wrong a clock is, by the median of its peers'.
func clockOff(d perigee.Offset) string {
	switch {
	case d > 0:
		return time.Duration(d).String() + " behind"
	case d < 0:
		return time.Duration(-d).String() + " ahead"
	}
	return "right"
}

func daysLeft(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return count(max(0, int(math.Round(time.Until(t).Hours()/24))), "day") + " left"
}

func newNodeDrain(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "drain", Short: "Stop taking traffic on the node that is asked; it keeps running", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if err := p.Drain(cmd.Context()); err != nil {
				return err
			}
			return t.say(cmd, map[string]bool{"draining": true}, "draining; it takes traffic again after a restart\n")
		},
	}
}

func newNodeRm(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "rm NODE", Short: "Remove a member for ever: its certificate is revoked", Args: exactly("NODE"),
		Long: "Rm ends a node's membership: all others close their connections to it and take none again, and its\n" +
			"functions move to other nodes. Its name can't be used again. Then stop it and delete its data directory.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			nodes, err := p.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			if err := removable(perigee.NodeID(args[0]), nodes); err != nil {
				return err
			}
			ack, err := p.Revoke(cmd.Context(), record.Revoke{Node: perigee.NodeID(args[0])})
			if err != nil {
				return err
			}
			return t.say(cmd, ack, "%s removed; recorded on %s\nits name can't be used again; stop it and delete its data directory\n", args[0], joined(ack.Stored))
		},
	}
}

// removable refuses a removal that can't be meant.
func removable(id perigee.NodeID, nodes []node.NodeStatus) error {
	var gone *node.NodeStatus
	signers := 0
	for i, n := range nodes {
		if n.ID == id {
			gone = &nodes[i]
		} else if n.HasRole(perigee.RoleSigner) {
			signers++
		}
	}
	switch {
	case gone == nil:
		return fmt.Errorf("there is no node %q: `perigee node ls` lists them", id)
	case gone.Self:
		return fmt.Errorf("%s is the node that was asked to do it: ask another one, with --context, or on another machine", id)
	case signers == 0:
		return errors.New("it is the only signer, and without one nobody can join and no certificate is renewed: first join another with `perigee token create --region REGION --signer yes`")
	}
	return nil
}
