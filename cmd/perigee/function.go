package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
)

func newLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the functions", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			list, err := p.Functions(cmd.Context())
			if err != nil {
				return err
			}
			out := newTable("FUNCTION", "REVISION", "WARM", "AGE", "URL")
			out.none = "no functions: `perigee deploy DIR` makes one"
			for _, f := range list {
				out.row(f.Name, string(f.Live.ID), warmth(&f), age(f.Live.Created), strings.Join(f.URLs, " "))
			}
			return t.print(cmd, list, out)
		},
	}
}

func newShow(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "show FUNCTION", Short: "What is live of a function, where, and why", Args: exactly("FUNCTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			f, _, err := p.Function(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(cmd.OutOrStdout(), f)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%s: revision %s by key %s, %s ago, bundle %s (%s)\n", f.Name, f.Live.ID, f.Live.Author, age(f.Live.Created), f.Live.Bundle, size(f.Live.Size))
			for _, u := range f.URLs {
				fmt.Fprintf(w, "  %s\n", u)
			}
			if f.Placement != nil {
				fmt.Fprintln(w, "its placement was set apart from the manifest")
			}
			if err := printRevisions(cmd, f); err != nil {
				return err
			}
			out := newTable("NODE", "REGION", "STATE", "WARMTH", "WHY")
			for _, v := range f.Plan.Verdicts {
				warm := perigee.Absent
				for _, h := range f.Holders {
					if h.Node == v.Node {
						warm = h.Warmth
					}
				}
				out.row(string(v.Node), string(v.Region), string(v.State), warm.String(), v.Text())
			}
			if err := out.write(w); err != nil {
				return err
			}
			for _, rule := range f.Plan.Unsatisfied {
				fmt.Fprintf(w, "not satisfied now: %s\n", rule)
			}
			return nil
		},
	}
}

func newRm(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "rm FUNCTION", Short: "Remove a function from the cluster", Args: exactly("FUNCTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			ack, err := p.Remove(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return t.say(cmd, ack, "%s removed; recorded on %s\n", args[0], joined(ack.Stored))
		},
	}
}
