package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/node"
)

func newRestore(t *target) *cobra.Command {
	var dir, zone, region, id string
	var check bool
	var labels map[string]string
	var set settings
	c := &cobra.Command{
		Use: "restore FILE --region REGION", Short: "Make a cluster again from a backup; this machine is its first node",
		Long: "Restore is for a cluster whose nodes are gone for good. It verifies the file, writes node.toml, a new root CA\n" +
			"and the first node's data directory, and exits; it needs the cluster's operator.key (--key FILE, or in --dir).\n" +
			"The cluster keeps its name, its functions and the keys of people, and gets a new epoch: a node of the old one\n" +
			"that comes back is no member of it. Other nodes join as they did at first. Secrets need their values again.\n" +
			"--check verifies the file and writes nothing.\n\n" + settingsHelp,
		Example: "  perigee restore perigee-2026-01-31.backup --region fra --key operator.key\n  perigee restore --check perigee-2026-01-31.backup",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if check {
				b, err := node.ReadBackup(f)
				if err != nil {
					return fmt.Errorf("verify %s: %w: take another backup", args[0], err)
				}
				return reportBackup(t, cmd, b, args[0]+" is whole and has ")
			}
			if region == "" {
				return usagef("--region is missing: say where this machine is, for example --region fra")
			}
			m := again{made: newMade(dir, region)}
			if _, err := set.parse(m.Config); err != nil {
				return err
			}
			if err := m.write(cmd, t, &set, node.RestoreConfig{
				FoundConfig: node.FoundConfig{Dir: node.Dir(m.Data), ID: perigee.NodeID(id), Region: perigee.Region(region), Zone: zone, Labels: labels}, Backup: f,
			}); err != nil {
				return err
			}
			return m.report(t, cmd)
		},
	}
	f := c.Flags()
	f.BoolVar(&check, "check", false, "only verify the file")
	f.StringVar(&region, "region", "", "`REGION` code of this machine (required)")
	f.StringVar(&dir, "dir", ".", "write below this `DIR`")
	f.StringVar(&id, "id", "", "node `ID` (default the region and a number)")
	f.StringVar(&zone, "zone", "", "`ZONE`: part of the region that fails on its own")
	labelFlag(f, &labels)
	set.add(f)
	return c
}

// again is a cluster that was restored, and where its files are.
type again struct {
	made
	Epoch   uint32       `json:"epoch"`
	Backup  *node.Backup `json:"backup"`
	Missing []string     `json:"missing"` // functions to deploy again
	Unset   []string     `json:"unset"`   // secrets to set again
}

// write makes the cluster again and its files. Nothing that is there is replaced.
func (m *again) write(cmd *cobra.Command, t *target, set *settings, cfg node.RestoreConfig) error {
	key := t.key
	if key == "" {
		key = m.OperatorKey
	}
	if !exists(key) {
		return fmt.Errorf("%s is not there: a restore needs the operator.key that the cluster was made with, or that of another operator: give it with --key", key)
	}
	var err error
	if cfg.Operator, err = identity.LoadKey(key); err != nil {
		return err
	}
	if err := m.begin(m.Config, m.Root); err != nil {
		return err
	}
	done, err := node.Restore(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	m.Epoch, m.Backup, m.Missing, m.Unset = done.Epoch, done.Backup, done.Missing, done.Unset
	return m.save(set, done.Founded)
}

func (m *again) report(t *target, cmd *cobra.Command) error {
	if t.json {
		return printJSON(cmd.OutOrStdout(), m)
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "cluster %s restored to epoch %d, as %s left it at %s; this machine is its first node, %s in %s\n",
		m.Cluster, m.Epoch, m.Backup.Node, m.Backup.Made.Format("2006-01-02 15:04:05 MST"), m.Node, m.Region)
	if len(m.Missing) > 0 {
		fmt.Fprintf(w, "deploy again, since their bundles are not here: %s\n", strings.Join(m.Missing, ", "))
	}
	for _, s := range m.Unset {
		function, name, _ := strings.Cut(s, "/")
		fmt.Fprintf(w, "set again, once the node runs: perigee secret set %s %s\n", function, name)
	}
	_, err := fmt.Fprintf(w, "back up %s now, then take it off this machine; never start a node of the old epoch again: delete its data directory\nnext: %s\n", filepath.Base(m.Root), m.Next)
	return err
}
