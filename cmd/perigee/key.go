package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

func newKey(t *target) *cobra.Command {
	return group("key", "Rights to deploy: keys of people and of CI", newKeyCreate(t), newKeyLs(t), newKeyRevoke(t))
}

func newKeyCreate(t *target) *cobra.Command {
	spec := node.TokenSpec{Kind: record.TokenDeploy}
	c := &cobra.Command{
		Use: "create", Short: "Make the right to a deploy key: a token for `perigee login`", Args: exactly(),
		Long: "Create prints one line, which is secret and works once. Who logs in with it gets a key of their own, which\n" +
			"never leaves their machine, narrowed to some functions, hosts and places. In CI, log in once in a\n" +
			"protected job, keep the context directory (PERIGEE_HOME) as a secret of the CI, and choose the context\n" +
			"with --context.\n\n" +
			"With --placements, every revision must name only these places in placement.residency, or only these in\n" +
			"placement.pin: write both the groups and the regions that may be named.\n\n" +
			"With --placement-only it changes where functions run, and neither their code nor their secrets.",
		Example: "  perigee key create --functions 'shop-*' --hosts '*.shop.example.com' --placements eu,fra,ams\n" +
			"  perigee key create --functions 'shop-*' --placements eu --placement-only    # for who is on call",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			token, err := p.CreateToken(cmd.Context(), spec)
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"token": token.Line(), "id": token.ID(), "signer": token.Signer, "scope": spec.Scope, "use": "perigee login TOKEN"})
			}
			fmt.Fprintln(cmd.OutOrStdout(), token.Line())
			fmt.Fprintf(cmd.ErrOrStderr(), "works once, for %s, while %s is up; use it with: perigee login TOKEN\n", span(spec.TTL), token.Signer)
			return nil
		},
	}
	f := c.Flags()
	f.DurationVar(&spec.TTL, "ttl", time.Hour, "`TIME` until the token expires; the key does not")
	scopeFlags(f, &spec.Scope)
	return c
}

func newKeyLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the keys of people, and what they may do", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			tokens, err := p.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			keys := []node.TokenStatus{}
			out := newTable("KEY", "ROLE", "FUNCTIONS", "HOSTS", "PLACEMENTS", "STATE")
			out.none = "no keys but the first operator's: `perigee key create` makes the right to one"
			for _, k := range tokens {
				if k.Redeemed == "" || k.Kind == record.TokenNode {
					continue
				}
				keys = append(keys, k)
				state := "good"
				if k.KeyRevoked {
					state = "revoked"
				}
				role := string(k.Kind)
				if k.Scope.PlacementOnly {
					role = "placement"
				}
				out.row(k.Redeemed, role, all(k.Scope.Functions), all(k.Scope.Hosts), all(k.Scope.Placements), state)
			}
			return t.print(cmd, keys, out)
		},
	}
}

// all writes a list of a scope.
func all(patterns []string) string {
	if len(patterns) == 0 {
		return "all"
	}
	return strings.Join(patterns, " ")
}

func newKeyRevoke(t *target) *cobra.Command {
	c := newTokenRevoke(t)
	c.Use, c.Short, c.Args = "revoke KEY-ID", "End a key, for ever", exactly("KEY-ID")
	c.Long = "Revoke takes an id of `perigee key ls`. What the key deployed before stays; what it signs from now on counts\n" +
		"for nothing, on every node."
	return c
}
