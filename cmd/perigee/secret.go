package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/node"
)

func newSecret(t *target) *cobra.Command {
	return group("secret", "Values that only the nodes which may run a function can read", newSecretSet(t), newSecretLs(t), newSecretRm(t))
}

func newSecretSet(t *target) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "set FUNCTION NAME", Short: "Give a secret a value, read from standard input", Args: exactly("FUNCTION", "NAME"),
		Long: "Set reads a value from standard input, or asks for it on a terminal, encrypts it on this machine for the\n" +
			"nodes that the function's hard placement rules allow, and gives it to the cluster. A guest finds it in its\n" +
			"environment if its manifest names it: secrets = [\"NAME\"]. A new value reaches running nodes by itself.\n\n" +
			"The rules are those of DIR's manifest with --dir, else those of the live function. Without either, before\n" +
			"the first deploy, --dir is needed, since nobody knows yet where the function may run. One line break at\n" +
			"the end of the value is dropped.",
		Example: "  perigee secret set shop DB_URL < db-url.txt\n  pass show db | perigee secret set shop DB_URL --dir .",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[1]
			if err := perigee.CheckEnvName(name); err != nil {
				return usagef("NAME: %v", err)
			}
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			policy, err := policyFor(cmd, p, args[0], dir)
			if err != nil {
				return err
			}
			value, err := readSecret(cmd, name)
			if err != nil {
				return err
			}
			ack, to, err := p.SetSecret(cmd.Context(), args[0], name, value, policy)
			if err != nil {
				return err
			}
			return t.say(cmd, struct {
				node.Ack
				Sealed []perigee.NodeID `json:"sealed_to"`
			}{ack, to}, "%s of %s is set, for %s to read; stored on %s\n", name, args[0], joined(to), joined(ack.Stored))
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "take the placement rules of the manifest in this `DIR`")
	return c
}

// policyFor finds the rules that say who may read a function's secrets.
func policyFor(cmd *cobra.Command, p *node.Person, function, dir string) (*perigee.Policy, error) {
	if dir != "" {
		m, err := bundle.LoadManifest(dir)
		if err == nil && m.Name != function {
			err = fmt.Errorf("the manifest in %s is that of %s, not of %s", dir, m.Name, function)
		}
		if err != nil {
			return nil, err
		}
		return &m.Placement, nil
	}
	fn, _, err := p.Function(cmd.Context(), function)
	if errors.Is(err, node.ErrNotFound) {
		return nil, fmt.Errorf("there is no function %s yet: name the directory of its manifest with --dir, which says where it may run", function)
	}
	if err != nil {
		return nil, err
	}
	return fn.Policy(), nil
}

// readSecret reads a value that must not be an argument, where every process could see it.
func readSecret(cmd *cobra.Command, name string) ([]byte, error) {
	if f, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: ", name)
		value, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		return value, err
	}
	value, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), identity.MaxSealed+2))
	if err != nil {
		return nil, fmt.Errorf("read the value of %s: %w", name, err)
	}
	value = bytes.TrimSuffix(value, []byte("\n"))
	switch {
	case len(value) == 0:
		return nil, fmt.Errorf("the value of %s is empty: give it on standard input", name)
	case len(value) > identity.MaxSealed:
		return nil, fmt.Errorf("the value of %s has more than %d bytes", name, identity.MaxSealed)
	case bytes.IndexByte(value, 0) >= 0:
		return nil, fmt.Errorf("the value of %s contains a NUL byte: encode it, for example as base64", name)
	}
	return value, nil
}

func newSecretLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls FUNCTION", Short: "List a function's secrets, without their values", Args: exactly("FUNCTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			list, err := p.Secrets(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			out := newTable("SECRET", "AGE", "KEY", "USED", "SEALED TO")
			out.none = fmt.Sprintf("no secrets: `perigee secret set %s NAME` makes one", args[0])
			for _, s := range list {
				used := "no"
				if s.Used {
					used = "yes"
				}
				out.row(s.Name, age(s.Created), string(s.Author), used, joined(s.Sealed))
			}
			return t.print(cmd, list, out)
		},
	}
}

func newSecretRm(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "rm FUNCTION NAME", Short: "Take a secret's value away", Args: exactly("FUNCTION", "NAME"),
		Long: "Rm takes a value away. Guests that have it keep it until they are loaded again. Nodes keep the encrypted\n" +
			"record, as they keep all records: what a node could read once it may have read, so change the\n" +
			"password behind it, too.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			list, err := p.Secrets(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for _, s := range list {
				if s.Name == args[1] {
					ack, err := p.RemoveSecret(cmd.Context(), args[0], args[1])
					if err != nil {
						return err
					}
					return t.say(cmd, ack, "%s of %s removed; recorded on %s\n", args[1], args[0], joined(ack.Stored))
				}
			}
			return fmt.Errorf("%s has no secret %q: `perigee secret ls %s` lists those it has", args[0], args[1], args[0])
		},
	}
}
