package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/node"
)

const rootKey = "root.pem"

func newCluster(t *target) *cobra.Command {
	return group("cluster", "Make a cluster", newClusterInit(t))
}

func newClusterInit(t *target) *cobra.Command {
	var dir, zone, domain, region, id string
	var labels map[string]string
	var set settings
	c := &cobra.Command{
		Use: "init --region REGION", Short: "Make a cluster whose first node is this machine",
		Long: "Init writes node.toml, the operator's key, the root CA and the first node's data directory, then exits.\n" +
			"`perigee region ls --builtin` lists the regions there are to choose from.\n\n" + settingsHelp,
		Example: "  perigee cluster init --region fra\n  perigee cluster init --region fra --domain fn.example.com --advertise 203.0.113.7:7443",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if region == "" {
				return usagef("--region is missing: say where this machine is, for example --region fra")
			}
			if _, ok := perigee.BuiltinRegions().Lookup(perigee.Region(region)); !ok {
				return fmt.Errorf("there is no region %q: `perigee region ls --builtin` lists those that a cluster can start with; it can add others later", region)
			}
			m := newMade(dir, region)
			if _, err := set.parse(m.Config); err != nil {
				return err
			}
			if err := m.write(&set, node.FoundConfig{
				Dir: node.Dir(m.Data), ID: perigee.NodeID(id), Region: perigee.Region(region), Zone: zone, Labels: labels, Domain: domain,
			}); err != nil {
				return err
			}
			return m.report(t, cmd)
		},
	}
	f := c.Flags()
	f.StringVar(&region, "region", "", "`REGION` code of this machine (required)")
	f.StringVar(&dir, "dir", ".", "write below this `DIR`")
	f.StringVar(&id, "id", "", "node `ID` (default the region and a number)")
	f.StringVar(&zone, "zone", "", "`ZONE`: part of the region that fails on its own")
	labelFlag(f, &labels)
	f.StringVar(&domain, "domain", node.DefaultDomain, "functions answer at <name>.`DOMAIN`")
	set.add(f)
	return c
}

// made is a new cluster, and where its files are.
type made struct {
	Cluster     perigee.ClusterID `json:"cluster"`
	Node        perigee.NodeID    `json:"node"`
	Region      string            `json:"region"`
	Config      string            `json:"config"`
	OperatorKey string            `json:"operator_key"`
	Root        string            `json:"root"`
	Data        string            `json:"data"`
	Next        string            `json:"next"` // the command to run next
}

func newMade(dir, region string) made {
	return made{Region: region, Config: filepath.Join(dir, localConfig), OperatorKey: filepath.Join(dir, operatorKey), Root: filepath.Join(dir, rootKey), Data: filepath.Join(dir, "data")}
}

// write makes the cluster and its files. Nothing that is there is replaced.
func (m *made) write(set *settings, found node.FoundConfig) error {
	if err := m.begin(m.Config, m.OperatorKey, m.Root); err != nil {
		return err
	}
	founded, err := node.Found(found)
	if err != nil {
		return err
	}
	if err := identity.SaveKey(m.OperatorKey, founded.Operator); err != nil {
		return err
	}
	return m.save(set, founded)
}

// begin makes the folder, in which these files must not be yet.
func (m *made) begin(files ...string) error {
	if err := os.MkdirAll(filepath.Dir(m.Config), 0o700); err != nil {
		return err
	}
	for _, path := range files {
		if exists(path) {
			return fmt.Errorf("%s is there already: use another --dir, or remove it to start over", path)
		}
	}
	return nil
}

// save writes what belongs beside the data directory.
func (m *made) save(set *settings, founded *node.Founded) error {
	if err := identity.SaveSecret(m.Root, founded.Root); err != nil {
		return err
	}
	m.Cluster, m.Node, m.Next = founded.Cluster, founded.Node, "perigee node run"
	if m.Config != localConfig {
		m.Next += " --config " + m.Config
	}
	return set.write(m.Config)
}

func (m *made) report(t *target, cmd *cobra.Command) error {
	if t.json {
		return printJSON(cmd.OutOrStdout(), m)
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "cluster %s made; this machine is its first node, %s in %s\n\n", m.Cluster, m.Node, m.Region)
	out := &table{}
	out.row("  "+m.Config, "this node's settings")
	out.row("  "+m.OperatorKey, "signs what an operator asks for: whoever has it owns the cluster")
	out.row("  "+m.Root, "the root CA: only its key can sign another CA for nodes")
	out.row("  "+m.Data, "the node's own key, certificate and state")
	if err := out.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
back up %s and %s now, then take %s off this machine
next: %s
then, for each further machine: perigee token create --region REGION
`, operatorKey, rootKey, rootKey, m.Next)
	return err
}
