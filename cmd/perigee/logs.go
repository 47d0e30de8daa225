package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

func newLogs(t *target) *cobra.Command {
	var q node.LogsQuery
	var since time.Duration
	var on string
	c := &cobra.Command{
		Use: "logs FUNCTION", Short: "What a function's guests logged and printed, on all nodes", Args: exactly("FUNCTION"),
		Long: "Logs prints the last lines that each node keeps of a function, in memory, oldest first: its log, its standard\n" +
			"output and standard error, and why requests failed. The third column is the request's id, as in its receipt.",
		Example: "  perigee logs hello --since 10m\n  perigee logs hello -f --node fra-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if since < 0 {
				return usagef("--since %v: want a time that has passed, like 10m", since)
			}
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if since > 0 {
				s, err := p.Status(cmd.Context()) // this machine's clock may be another
				if err != nil {
					return err
				}
				q.Since = s.Now.Time().Add(-since)
			}
			q.Node = perigee.NodeID(on)
			err = p.Logs(cmd.Context(), args[0], q, func(e node.LogEvent) error {
				return printLogEvent(cmd.OutOrStdout(), cmd.ErrOrStderr(), &e, t.json)
			})
			if q.Follow && cmd.Context().Err() != nil {
				return nil // Ctrl-C is how it ends
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with lines as they come, until Ctrl-C")
	f.DurationVar(&since, "since", 0, "only lines that are not older than this `DURATION`, like 10m")
	f.StringVar(&on, "node", "", "only of the node with this `ID`")
	return c
}

// printLogEvent prints lines on out, and what is missing on notes. For programs all is on out.
func printLogEvent(out, notes io.Writer, e *node.LogEvent, asJSON bool) (err error) {
	switch l := e.Line; {
	case asJSON:
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		err = enc.Encode(e)
	case l != nil:
		id := l.Request
		if id == "" {
			id = "-"
		}
		_, err = fmt.Fprintf(out, "%s %s %s %s %s\n", l.Time.Local().Format("2006-01-02T15:04:05.000"), l.Node+"/"+perigee.NodeID(l.Region), id, l.Level, l.Text)
	case e.Missed > 0 && e.Node != "":
		_, err = fmt.Fprintf(notes, "%s: %d lines were dropped: this reader was too slow\n", e.Node, e.Missed)
	case e.Missed > 0:
		_, err = fmt.Fprintf(notes, "%d older lines are not shown: use --since or --node\n", e.Missed)
	case e.Error != "":
		_, err = fmt.Fprintf(notes, "%s: its lines are missing: %s\n", e.Node, e.Error)
	}
	return err
}
