package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

func newBackup(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Write all that people asked of the cluster, and the bundles, into one file",
		Long: "Backup writes the cluster's signed records, as they are at one moment, and the bundles of the functions\n" +
			"that are live or can be rolled back to, as far as the node asked may hold them. The file is verified as it\n" +
			"comes; one that ends early is removed. Secrets and certificates in it are sealed to the nodes of today:\n" +
			"a restore can't open them, so keep the values of secrets elsewhere, and operator.key, which a restore needs.",
		Example: "  perigee backup perigee-$(date +%F).backup\n  perigee restore --check perigee-2026-01-31.backup",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if exists(args[0]) {
				return fmt.Errorf("%s is there already: choose another name, or remove it", args[0])
			}
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			r, err := p.Backup(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := saveBackup(args[0], r)
			if err != nil {
				return err
			}
			return reportBackup(t, cmd, b, args[0]+" has ")
		},
	}
}

// saveBackup writes a backup to a file, which has the name once it is known to be whole.
func saveBackup(path string, r io.Reader) (*node.Backup, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // readable for this user only
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	b, err := node.ReadBackup(io.TeeReader(r, f))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return b, os.Rename(f.Name(), path)
}

func reportBackup(t *target, cmd *cobra.Command, b *node.Backup, before string) error {
	if len(b.Missing) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "without the bundles of %s, which %s may not hold or nobody had: back up on a node inside their residency, too\n", strings.Join(b.Missing, ", "), b.Node)
	}
	return t.say(cmd, b, "%s%s of cluster %s, epoch %d, with %s and %s (%s), written by %s at %s\n", before,
		count(b.Functions, "function"), b.Cluster, b.Epoch, count(b.Records, "record"), count(b.Bundles, "bundle"), size(perigee.Bytes(b.Bytes)), b.Node, b.Made.Format(time.RFC3339))
}
