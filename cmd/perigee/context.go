package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/node"
)

// clusterContext is a cluster that somebody logged in to, kept in <home>/contexts/<name>/ beside the
// person's key.
type clusterContext struct {
	Name    string            `json:"name"`
	Cluster perigee.ClusterID `json:"cluster"`
	Role    string            `json:"role"`
	Addrs   []string          `json:"addrs"` // of the nodes, when it was last used
	Genesis []byte            `json:"genesis"`
}

const (
	contextFile = "context.json"
	contextKey  = "key.pem"
)

// home is where contexts are kept: PERIGEE_HOME, or "perigee" in the user's configuration directory.
func home() (string, error) {
	if h := os.Getenv("PERIGEE_HOME"); h != "" {
		return h, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find a place for contexts: %w: set PERIGEE_HOME", err)
	}
	return filepath.Join(dir, "perigee"), nil
}

func contextDir(name string) (string, error) {
	h, err := home()
	if err != nil {
		return "", err
	}
	if err := perigee.CheckLabel(name); err != nil {
		return "", fmt.Errorf("context: %w", err)
	}
	return filepath.Join(h, "contexts", name), nil
}

func (c clusterContext) keyPath() string {
	dir, err := contextDir(c.Name)
	if err != nil {
		return "" // no context has such a name
	}
	return filepath.Join(dir, contextKey)
}

// saveContext stores what a login gave. An earlier login under the name is replaced, key and all.
func saveContext(name string, in *node.LoggedIn) error {
	dir, err := contextDir(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	if err := identity.SaveKey(filepath.Join(made, contextKey), in.Key); err != nil {
		return err
	}
	c := clusterContext{Name: name, Cluster: in.Cluster, Role: string(in.Role), Addrs: in.Addrs, Genesis: in.Genesis}
	if err := c.write(made); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(made, dir)
}

// save stores a change of the context; its key stays.
func (c clusterContext) save() error {
	dir, err := contextDir(c.Name)
	if err != nil {
		return err
	}
	return c.write(dir)
}

func (c clusterContext) write(dir string) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, contextFile))
}

func loadContext(name string) (c clusterContext, err error) {
	dir, err := contextDir(name)
	if err != nil {
		return c, err
	}
	b, err := os.ReadFile(filepath.Join(dir, contextFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("there is no context %q: `perigee context ls` lists them, `perigee login TOKEN` makes one", name)
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("context %s: %w: log in again with `perigee login TOKEN --name %s`", name, err, name)
	}
	c.Name = name
	return c, nil
}

func useContext(name string) error {
	h, err := home()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h, "current"), []byte(name+"\n"), 0o600)
}

func currentContext() (string, error) {
	h, err := home()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(h, "current"))
	return strings.TrimSpace(string(b)), err
}

func newContext(t *target) *cobra.Command {
	return group("context", "Choose between clusters that you logged in to", newContextLs(t), newContextUse(t))
}

// listedContext is a context as a listing shows it.
type listedContext struct {
	Name    string            `json:"name"`
	Current bool              `json:"current"`
	Cluster perigee.ClusterID `json:"cluster,omitempty"`
	Role    string            `json:"role,omitempty"`
	Addrs   []string          `json:"addrs"`
	Error   string            `json:"error,omitempty"` // why it can't be used
}

func newContextLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the contexts", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := listContexts()
			if err != nil {
				return err
			}
			out := newTable("CURRENT", "NAME", "CLUSTER", "ROLE", "NODES")
			out.none = "no contexts: `perigee login TOKEN` makes one"
			for _, c := range list {
				mark, nodes := "", strings.Join(c.Addrs, " ")
				if c.Current {
					mark = "*"
				}
				if c.Error != "" {
					nodes = c.Error
				}
				out.row(mark, c.Name, string(c.Cluster), c.Role, nodes)
			}
			return t.print(cmd, list, out)
		},
	}
}

func listContexts() ([]listedContext, error) {
	h, err := home()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(h, "contexts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	current, _ := currentContext() // none is fine
	list := []listedContext{}
	for _, e := range entries {
		if perigee.CheckLabel(e.Name()) != nil {
			continue
		}
		l := listedContext{Name: e.Name(), Current: e.Name() == current, Addrs: []string{}}
		if c, err := loadContext(e.Name()); err != nil {
			l.Error = err.Error()
		} else {
			l.Cluster, l.Role, l.Addrs = c.Cluster, c.Role, c.Addrs
		}
		list = append(list, l)
	}
	return list, nil
}

func newContextUse(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadContext(args[0])
			if err != nil {
				return err
			}
			if err := useContext(c.Name); err != nil {
				return err
			}
			return t.say(cmd, listedContext{Name: c.Name, Current: true, Cluster: c.Cluster, Role: c.Role, Addrs: c.Addrs},
				"commands now go to cluster %s, as %s%s\n", c.Cluster, c.Role, insteadOf())
		},
	}
}

// insteadOf warns that something goes before the current context.
func insteadOf() string {
	switch {
	case os.Getenv(contextEnv) != "":
		return fmt.Sprintf(" (but %s=%s goes first)", contextEnv, os.Getenv(contextEnv))
	case exists(localConfig):
		return fmt.Sprintf(" (but in this directory %s goes first)", localConfig)
	}
	return ""
}
