package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

func newUsage(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "usage [FUNCTION]", Short: "What functions have used", Args: atMost(1),
		Long: "Usage sums, over all nodes, what functions have used since each node began to count, across restarts:\n" +
			"for each function, revision, region that it ran in, and caller: the region where the requests came in,\n" +
			"or \"fn:\" and the function that sent them.\n" +
			"Nodes that do not answer are named: what they counted is not in the sums.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			function := ""
			if len(args) > 0 {
				function = args[0]
			}
			u, err := p.Usage(cmd.Context(), function)
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(cmd.OutOrStdout(), u)
			}
			return printUsage(cmd.OutOrStdout(), &u)
		},
	}
}

func printUsage(w io.Writer, u *node.Usage) error {
	out := newTable("FUNCTION", "REVISION", "REGION", "CALLER", "REQUESTS", "ERRORS", "FUEL", "GUEST TIME", "GIB-SECONDS", "IN", "OUT")
	out.none = "nothing was used yet"
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	for i := range u.Rows {
		r := &u.Rows[i]
		name, rev, caller := r.Function, string(r.Revision), r.Caller
		switch {
		case r.Other:
			name, rev, caller = "(other)", "-", "-"
		case rev == "":
			rev, caller = "(older)", "-"
		}
		out.row(name, rev, string(r.Region), caller, number(r.Requests), number(r.Errors), number(r.Fuel), guestTime(r.Guest),
			gibSeconds(r.PageMicros), size(perigee.Bytes(r.BytesIn)), size(perigee.Bytes(r.BytesOut)))
	}
	if len(u.Rows) > 1 {
		c := &u.Total
		out.row("total", "", "", "", number(c.Requests), number(c.Errors), number(c.Fuel), guestTime(c.Guest),
			gibSeconds(c.PageMicros), size(perigee.Bytes(c.BytesIn)), size(perigee.Bytes(c.BytesOut)))
	}
	if err := out.write(w); err != nil {
		return err
	}
	answered := 0
	var since time.Time
	for _, n := range u.Nodes {
		if n.Missing != "" {
			fmt.Fprintf(w, "missing: %s in %s: %s; what it counted is not in these sums\n", n.Node, n.Region, n.Missing)
			continue
		}
		answered++
		if since.IsZero() || n.Since.Before(since) {
			since = n.Since
		}
	}
	_, err := fmt.Fprintf(w, "counted by %s of %d since %s\n", count(answered, "node"), len(u.Nodes), since.Local().Format(time.DateTime))
	return err
}

// guestTime is nanoseconds as people read them.
func guestTime(ns uint64) string { return time.Duration(ns).Round(10 * time.Microsecond).String() }

// gibSeconds turns pages of 64 KiB times microseconds into GiB times seconds.
func gibSeconds(pageMicros uint64) string {
	return strconv.FormatFloat(float64(pageMicros)/(16384*1e6), 'f', 6, 64)
}
