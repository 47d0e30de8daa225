//go:build linux

// Package cluster runs clusters of the real program in a lab. It makes, joins and changes them by the command
// line, as people do, and looks at them through their admin sockets, which is cheaper than a command.
//
// It starts no goroutines; the lab owns the processes and ends them.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/node"
)

// Cluster is the nodes of one cluster in a lab. It is safe for concurrent use.
type Cluster struct {
	Lab *lab.Lab

	mu      sync.Mutex // guards members
	members []*Member  // in the order of their start
}

// Member is a machine of the lab that is a node of the cluster.
type Member struct {
	*lab.Node
	ID     perigee.NodeID
	Client *node.Client // of its admin socket
}

const (
	startTime = 60 * time.Second // for a node to start or join, on a busy machine
	lookEvery = 10 * time.Millisecond

	// HTTP is where each node listens for plain requests: on itself only.
	HTTP = "127.0.0.1:8080"
)

// Found makes a cluster whose first node is a new machine with this name. Flags are those of `cluster init`.
func Found(ctx context.Context, l *lab.Lab, id perigee.NodeID, region perigee.Region, flags ...string) (*Cluster, error) {
	c := &Cluster{Lab: l}
	m, err := c.machine(id, region, lab.NodeConfig{})
	if err != nil {
		return nil, err
	}
	args := append([]string{"cluster", "init", "--region", string(region), "--id", string(id), "--https", "", "--http", HTTP, "--domain", "lab"}, flags...)
	if _, err := m.Exec(ctx, args...); err != nil {
		return nil, err
	}
	if err := m.Start("node", "run"); err != nil {
		return nil, err
	}
	return c, c.arrived(ctx, m)
}

// Join makes a new machine a member, by a token of the first node. Flags are those of `node run`.
func (c *Cluster) Join(ctx context.Context, id perigee.NodeID, region perigee.Region, machine lab.NodeConfig, flags ...string) (*Member, error) {
	token, err := c.Token(ctx, region)
	if err != nil {
		return nil, err
	}
	return c.JoinBy(ctx, token, id, region, machine, flags...)
}

// Token makes a token for a node, on the first node. Flags are those of `token create`.
func (c *Cluster) Token(ctx context.Context, region perigee.Region, flags ...string) (string, error) {
	token, err := c.Members()[0].Exec(ctx, append([]string{"token", "create", "--region", string(region)}, flags...)...)
	return strings.TrimSpace(token), err
}

// JoinBy is Join with a token that is there.
func (c *Cluster) JoinBy(ctx context.Context, token string, id perigee.NodeID, region perigee.Region, machine lab.NodeConfig, flags ...string) (*Member, error) {
	m, err := c.machine(id, region, machine)
	if err != nil {
		return nil, err
	}
	if err := m.Start(append([]string{"node", "run", "--join", token, "--id", string(id), "--https", "", "--http", HTTP}, flags...)...); err != nil {
		return nil, err
	}
	return m, c.arrived(ctx, m)
}

func (c *Cluster) machine(id perigee.NodeID, region perigee.Region, config lab.NodeConfig) (*Member, error) {
	n, err := c.Lab.NodeWith(string(id), region, config)
	if err != nil {
		return nil, err
	}
	m := &Member{Node: n, ID: id}
	m.Client = node.NewClient(&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return n.Dial(ctx, "unix", filepath.Join(n.Dir, "data", "admin.sock"))
		},
		DisableKeepAlives: true, // the node may be killed and started again
	}, string(id))
	return m, nil
}

// arrived waits until a node that was started answers, and remembers it.
func (c *Cluster) arrived(ctx context.Context, m *Member) error {
	if err := m.Up(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = append(c.members, m)
	return nil
}

// Up waits until the node that was started answers on its admin socket.
func (m *Member) Up(ctx context.Context) error {
	return Until(ctx, startTime, fmt.Sprintf("%s answers", m.ID), func() error {
		if !m.Running() {
			return Final(fmt.Errorf("it ended; its log ends with:\n%s", m.LogEnd()))
		}
		_, err := m.Client.Status(ctx)
		return err
	})
}

// LogEnd returns the last lines of what the node printed.
func (m *Member) LogEnd() string {
	const lines = 20
	b, err := os.ReadFile(m.LogPath())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Restart starts a node again that was stopped or killed, and waits until it answers.
func (m *Member) Restart(ctx context.Context) error {
	if err := m.Start("node", "run"); err != nil {
		return err
	}
	return m.Up(ctx)
}

// Members returns the nodes in the order in which they joined, those that do not run included.
func (c *Cluster) Members() []*Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Member(nil), c.members...)
}

// Operator returns the cluster's operator, who acts through a member.
func (c *Cluster) Operator(ctx context.Context, via *Member) (*node.Person, error) {
	key, err := identity.LoadKey(filepath.Join(c.Members()[0].Dir, "operator.key"))
	if err != nil {
		return nil, err
	}
	s, err := via.Client.Status(ctx)
	if err != nil {
		return nil, err
	}
	return node.NewPerson(via.Client, key, s.Record)
}

// Settle waits until each of these members sees each of them alive, nobody else, and holds the same state.
func Settle(ctx context.Context, within time.Duration, members ...*Member) error {
	return Until(ctx, within, "the nodes see each other and agree", func() error {
		return same(ctx, members, func(m *Member, s node.Status) error {
			if s.Alive != len(members) {
				return fmt.Errorf("%s sees %d alive, want %d", m.ID, s.Alive, len(members))
			}
			return nil
		})
	})
}

// Agree waits until these members hold the same state, whether or not they see each other.
func Agree(ctx context.Context, within time.Duration, members ...*Member) error {
	return Until(ctx, within, "the nodes agree", func() error {
		return same(ctx, members, func(*Member, node.Status) error { return nil })
	})
}

func same(ctx context.Context, members []*Member, also func(*Member, node.Status) error) error {
	var first perigee.Digest
	for i, m := range members {
		s, err := m.Client.Status(ctx)
		if err != nil {
			return err
		}
		if i == 0 {
			first = s.State
		}
		if s.State != first {
			return fmt.Errorf("%s has state %s, %s has %s", m.ID, s.State.Short(), members[0].ID, first.Short())
		}
		if err := also(m, s); err != nil {
			return err
		}
	}
	return nil
}

// Function is a function as its author has it: a manifest and a bundle.
type Function struct {
	Manifest *perigee.Manifest
	Archive  *bundle.Archive
}

// NewFunction writes a function into a directory and packs it. The manifest gets its first two lines here.
func NewFunction(dir, name string, wasm []byte, manifest string, files map[string][]byte) (*Function, error) {
	text := fmt.Sprintf("name = %q\nwasm = \"f.wasm\"\n%s\n", name, manifest)
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "public"), 0o755),
		os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(dir, "f.wasm"), wasm, 0o644),
	); err != nil {
		return nil, err
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, "public", name), b, 0o644); err != nil {
			return nil, err
		}
	}
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		return nil, err
	}
	archive, err := bundle.Pack(dir, m)
	return &Function{m, archive}, err
}

// Deploy makes f live, and returns when that is acknowledged.
func (f *Function) Deploy(ctx context.Context, p *node.Person) (node.Deployed, error) {
	body := f.Archive.Open()
	defer body.Close()
	return p.Deploy(ctx, f.Manifest, f.Archive.Digest, perigee.Bytes(f.Archive.Size), body, nil)
}

// Warm waits until these members see this revision live, and warm wherever it is planned.
func Warm(ctx context.Context, within time.Duration, name string, rev perigee.RevisionID, members ...*Member) error {
	return Until(ctx, within, fmt.Sprintf("revision %s of %s is warm", rev, name), func() error {
		for _, m := range members {
			s, _, err := m.Client.Function(ctx, name)
			if err != nil {
				return err
			}
			if s.Live.ID != rev || !s.Ready() {
				return fmt.Errorf("%s sees revision %s, holders %v", m.ID, s.Live.ID, s.Holders)
			}
		}
		return nil
	})
}

// Gateway returns a client that sends requests to this node, as somebody on the machine does.
func (m *Member) Gateway() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.Dial(ctx, "tcp", HTTP) },
	}}
}

type final struct{ error }

// Final marks an error after which Until does not try again.
func Final(err error) error { return final{err} }

// Until tries until f succeeds, for some time at most. What says what is waited for.
func Until(ctx context.Context, within time.Duration, what string, f func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := f()
		switch {
		case err == nil:
			return nil
		case errors.As(err, new(final)):
			return fmt.Errorf("%s: %w", what, err)
		case time.Now().After(deadline):
			return fmt.Errorf("%s: not within %v: %w", what, within, err)
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		time.Sleep(lookEvery) // between two looks
	}
}
