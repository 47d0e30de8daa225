package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

func newLogin(t *target) *cobra.Command {
	name := "default"
	c := &cobra.Command{
		Use: "login TOKEN", Short: "Trade a deploy or operator token for a key on this machine",
		Long: "Login redeems a token that an operator made with `perigee token create --role deploy`. The key is made\n" +
			"here and never leaves this machine; the cluster learns its public half. \"-\" reads the token from\n" +
			"standard input.",
		Example: "  perigee login pgt1_…\n  printenv PERIGEE_TOKEN | perigee login -     # in CI",
		Args:    exactly("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			line := args[0]
			if line == "-" {
				in := bufio.NewScanner(io.LimitReader(cmd.InOrStdin(), 64<<10))
				in.Scan() // nothing at all is no token either
				line = in.Text()
			}
			token, err := identity.ParseToken(line)
			if err != nil {
				return err
			}
			if err := nameFree(name, token); err != nil {
				return err
			}
			in, err := node.Login(cmd.Context(), token)
			if err != nil {
				return err
			}
			if err := saveContext(name, in); err != nil {
				return fmt.Errorf("the token is used up, but its key could not be stored: %w: mend that and ask for another token", err)
			}
			if err := useContext(name); err != nil {
				return err
			}
			return t.say(cmd, map[string]any{"context": name, "cluster": in.Cluster, "role": in.Role, "key": in.ID},
				"logged in to cluster %s with role %s (key %s), context %q\nnext: perigee status, perigee deploy DIR%s\n", in.Cluster, in.Role, in.ID, name, insteadOf())
		},
	}
	c.Flags().StringVar(&name, "name", name, "`NAME` of the context")
	return c
}

// nameFree makes sure, before the token is used up, that the key can be stored, and that it replaces
// no key of another cluster.
func nameFree(name string, token identity.Token) error {
	dir, err := contextDir(name)
	if err != nil {
		return usageError{err}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make a place for the key: %w: set PERIGEE_HOME to a directory that you may write to", err)
	}
	c, err := loadContext(name)
	if err == nil && record.ID(c.Genesis) != token.Genesis {
		return fmt.Errorf("context %s is of another cluster, %s, and its key would be lost: choose another name with --name", name, c.Cluster)
	}
	return nil // there is none, or it is of no use, or it gets a new key
}
