package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
)

func newStatus(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "The cluster, as one node sees it", Args: exactly(),
		Long: "Status says which node was asked, how many members it sees, and on how many of them the state is the\n" +
			"same: right after a change it is on a few, a second later on all.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			s, err := p.Status(cmd.Context())
			if err != nil {
				return err
			}
			ready := "ready"
			if !s.Ready {
				ready = "not ready: " + s.Why
			}
			out := newTable("node", fmt.Sprintf("%s in %s, %s", s.Node, s.Region, ready))
			cluster := string(s.Cluster)
			if s.Epoch > 1 {
				cluster += fmt.Sprintf(", epoch %d: restored from a backup", s.Epoch)
			}
			out.row("cluster", cluster)
			out.row("domain", s.Domain)
			out.row("nodes", fmt.Sprintf("%d alive of %d, %s", s.Alive, s.Nodes, count(s.Signers, "signer")))
			out.row("functions", fmt.Sprint(s.Functions))
			out.row("state", fmt.Sprintf("%s, the same on %d of %d alive", s.State.Short(), s.Agree, s.Alive))
			out.row("records", fmt.Sprintf("%d, %.1f of %.0f MiB", s.Records.Records, mib(s.Records.Bytes), mib(s.Records.Max)))
			out.row("version", s.Version)
			if s.Disk != "" {
				out.row("disk", s.Disk)
			}
			if s.Rotten > 0 {
				out.row("rot", count(s.Rotten, "file")+" had changed on the disk since the start, and were repaired or are fetched again: replace the disk")
			}
			for _, w := range s.Worries {
				out.row("look at", w)
			}
			return t.print(cmd, s, out)
		},
	}
}

func mib(b perigee.Bytes) float64 { return float64(b) / float64(perigee.MiB) }
