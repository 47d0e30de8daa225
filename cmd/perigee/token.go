package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

// wantedSigners is how many nodes become signers unless told otherwise, so that the loss of one
// does not end the mesh.
const wantedSigners = 3

func newToken(t *target) *cobra.Command {
	return group("token", "Rights to join (nodes) and to log in (people)", newTokenCreate(t), newTokenLs(t), newTokenRevoke(t))
}

func newTokenCreate(t *target) *cobra.Command {
	var spec node.TokenSpec
	var region, role, signer string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create --region REGION | --role deploy", Short: "Make a token: one line, works once, for an hour",
		Long: "Create prints one line, which is secret: who has it first may use it. A node token says where the new\n" +
			"node is, and becomes part of its certificate; a deploy token may be narrowed to some functions and hosts.",
		Example: "  perigee token create --region syd                          # then: perigee node run --join TOKEN\n" +
			"  perigee token create --role deploy --functions 'shop-*'    # then: perigee login TOKEN",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkTokenFlags(cmd.Flags(), role, signer, ttl); err != nil {
				return err
			}
			spec.Region, spec.Kind, spec.TTL = perigee.Region(region), record.TokenKind(role), ttl
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if spec.Kind == record.TokenNode {
				if err := nodeToken(cmd, p, &spec, signer); err != nil {
					return err
				}
			}
			token, err := p.CreateToken(cmd.Context(), spec)
			if err != nil {
				return err
			}
			use := "perigee login TOKEN"
			if spec.Kind == record.TokenNode {
				use = "perigee node run --join TOKEN"
			}
			if t.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"token": token.Line(), "id": token.ID(), "signer": token.Signer, "kind": spec.Kind, "ttl": perigee.Duration(ttl), "use": use})
			}
			fmt.Fprintln(cmd.OutOrStdout(), token.Line())
			fmt.Fprintf(cmd.ErrOrStderr(), "works once, for %s, while %s is up; use it with: %s\n", span(ttl), token.Signer, use)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&region, "region", "", "`REGION` of the node that will join")
	f.StringVar(&role, "role", "node", "`ROLE` of the bearer: node, deploy (people and CI) or operator")
	f.DurationVar(&ttl, "ttl", time.Hour, "`TIME` until it expires")
	f.StringVar(&spec.Zone, "zone", "", "`ZONE` of the node: part of the region that fails on its own")
	labelFlag(f, &spec.Labels)
	f.StringVar(&signer, "signer", "auto", "whether the node may issue certificates: `yes|no|auto` (auto: the first three nodes, open tokens counted)")
	scopeFlags(f, &spec.Scope)
	return c
}

// scopeFlags adds the flags that narrow a deploy key.
func scopeFlags(f *pflag.FlagSet, scope *record.Scope) {
	f.StringSliceVar(&scope.Functions, "functions", nil, "`PATTERN` of the functions that a deploy key may deploy, like shop-* (default all)")
	f.StringSliceVar(&scope.Hosts, "hosts", nil, "`PATTERN` of the hosts that its routes may claim (default all)")
	f.StringSliceVar(&scope.Placements, "placements", nil, "`PLACE` that its functions must be confined to by residency or pin, like eu (default anywhere)")
	f.BoolVar(&scope.PlacementOnly, "placement-only", false, "a deploy key that changes where functions run (perigee placement set), and neither their code nor their secrets")
}

// checkTokenFlags refuses flags that do not go together.
func checkTokenFlags(f *pflag.FlagSet, role, signer string, ttl time.Duration) error {
	switch {
	case role != string(record.TokenNode) && role != string(record.TokenDeploy) && role != string(record.TokenOperator):
		return usagef("--role %q: use node, deploy or operator", role)
	case role == string(record.TokenNode) && !f.Changed("region"):
		return usagef("--region is missing: the token says where the new node is; for people use --role deploy")
	case ttl <= 0:
		return usagef("--ttl %v: use a time like 30m", ttl)
	case signer != "auto" && signer != "yes" && signer != "no":
		return usagef("--signer %q: use yes, no or auto", signer)
	}
	for _, flag := range []string{"region", "zone", "label", "signer", "functions", "hosts", "placements"} {
		of := record.TokenNode
		if flag == "functions" || flag == "hosts" || flag == "placements" {
			of = record.TokenDeploy
		}
		if f.Changed(flag) && role != string(of) {
			return usagef("--%s goes with --role %s, not with --role %s", flag, of, role)
		}
	}
	return nil
}

// nodeToken checks the region and decides whether the node becomes a signer.
func nodeToken(cmd *cobra.Command, p *node.Person, spec *node.TokenSpec, signer string) error {
	regions, err := p.Regions(cmd.Context())
	if err != nil {
		return err
	}
	known := false
	for _, r := range regions {
		known = known || r.Code == spec.Region
	}
	if !known {
		return fmt.Errorf("this cluster has no region %q: `perigee region ls` lists those it has, `perigee region add %s --at LAT,LON` adds it", spec.Region, spec.Region)
	}
	if signer == "auto" {
		if signer, err = autoSigner(cmd.Context(), p); err != nil {
			return err
		}
	}
	if signer == "yes" {
		spec.Roles = append(spec.Roles, perigee.RoleSigner, perigee.RoleIssuer)
	}
	return nil
}

// autoSigner says whether the cluster has fewer signers than it should, those counted that open tokens
// will make.
func autoSigner(ctx context.Context, p *node.Person) (string, error) {
	s, err := p.Status(ctx)
	if err != nil {
		return "", err
	}
	tokens, err := p.Tokens(ctx)
	if err != nil {
		return "", err
	}
	n := s.Signers
	for _, k := range tokens {
		if slices.Contains(k.Roles, perigee.RoleSigner) && k.Redeemed == "" && !k.Revoked && time.Now().Before(k.Expires) {
			n++
		}
	}
	if n < wantedSigners {
		return "yes", nil
	}
	return "no", nil
}

func newTokenLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the tokens", Args: exactly(),
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
			out := newTable("TOKEN", "KIND", "REGION", "SIGNER", "STATE")
			out.none = "no tokens: `perigee token create` makes one"
			for _, k := range tokens {
				state := "open until " + k.Expires.Local().Format(time.DateTime)
				switch {
				case k.Revoked:
					state = "revoked"
				case k.KeyRevoked:
					state = "used by " + k.Redeemed + ", since revoked"
				case k.Redeemed != "":
					state = "used by " + k.Redeemed
				case time.Now().After(k.Expires):
					state = "expired"
				}
				out.row(string(k.ID), string(k.Kind), string(k.Region), string(k.Signer), state)
			}
			return t.print(cmd, tokens, out)
		},
	}
}

func newTokenRevoke(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN-ID | KEY-ID", Short: "End a token, or the key that somebody got for one", Args: exactly("TOKEN-ID or KEY-ID"),
		Long: "Revoke takes an id of `perigee token ls`: of a token that nobody used yet, or of the key that somebody got\n" +
			"for one. What the key deployed before stays. A node is removed with `perigee node rm`.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			tokens, err := p.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if err := revocable(args[0], tokens); err != nil {
				return err
			}
			ack, err := p.Revoke(cmd.Context(), record.Revoke{Key: perigee.KeyID(args[0])})
			if err != nil {
				return err
			}
			return t.say(cmd, ack, "%s revoked; recorded on %s\n", args[0], joined(ack.Stored))
		},
	}
}

// revocable refuses a revocation that would end nothing.
func revocable(id string, tokens []node.TokenStatus) error {
	for _, k := range tokens {
		switch {
		case k.Redeemed == id && k.Kind == record.TokenNode:
			return fmt.Errorf("%s is a node: remove it with `perigee node rm %s`", id, id)
		case k.Redeemed == id:
			return nil
		case string(k.ID) != id:
		case k.Redeemed != "" && k.Kind == record.TokenNode:
			return fmt.Errorf("token %s is used up: the node it made is removed with `perigee node rm %s`", id, k.Redeemed)
		case k.Redeemed != "":
			return fmt.Errorf("token %s is used up: the key it made is ended with `perigee token revoke %s`", id, k.Redeemed)
		default:
			return nil
		}
	}
	return fmt.Errorf("there is no token or key %q: `perigee token ls` lists them", id)
}
