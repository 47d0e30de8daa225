package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/perigee-edge/perigee/configs"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/node"
)

const (
	localConfig  = "node.toml"
	systemConfig = "/etc/perigee/node.toml"
	operatorKey  = "operator.key"
	contextEnv   = "PERIGEE_CONTEXT"
)

// target is which cluster a command acts on, and as whom: the global flags.
type target struct {
	config, context, key string
	json                 bool
}

// person connects. The person's key may be nil when only reads are possible.
func (t *target) person(ctx context.Context) (*node.Person, func(), error) {
	switch env := os.Getenv(contextEnv); {
	case t.config != "" && t.context != "":
		return nil, nil, usagef("--config and --context both name a cluster: give one of them")
	case t.config != "":
		return t.fromConfig(ctx, t.config)
	case t.context != "":
		return t.fromContext(ctx, t.context)
	case env != "":
		return t.fromContext(ctx, env)
	case exists(localConfig):
		return t.fromConfig(ctx, localConfig)
	}
	if name, err := currentContext(); err == nil {
		return t.fromContext(ctx, name)
	}
	if exists(systemConfig) {
		return t.fromConfig(ctx, systemConfig)
	}
	return nil, nil, fmt.Errorf("no cluster to talk to: there is no %s here and no context: log in with `perigee login TOKEN`, start one with `perigee dev`, or make one with `perigee cluster init`", localConfig)
}

// signer is person for commands that change something.
func (t *target) signer(ctx context.Context) (*node.Person, func(), error) {
	p, done, err := t.person(ctx)
	if err == nil && p.Key == nil {
		done()
		return nil, nil, fmt.Errorf("this changes the cluster and must be signed, but there is no %s beside the node's settings: give one with --key, or go where it is, or log in with `perigee login TOKEN` and use --context", operatorKey)
	}
	return p, done, err
}

// fromConfig talks to the node of this machine over its admin socket.
func (t *target) fromConfig(ctx context.Context, path string) (*node.Person, func(), error) {
	cfg, err := configs.Load(path)
	if err != nil {
		return nil, nil, err
	}
	client := node.NewSocketClient(node.SocketPath(socketOf(path, cfg)))
	s, err := client.Status(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("the node of %s does not answer: %s: %w", path, whySilent(err, node.Dir(dataDir(path, cfg))), err)
	}
	keyPath := t.key
	if keyPath == "" {
		keyPath = filepath.Join(filepath.Dir(path), operatorKey)
		if !exists(keyPath) {
			keyPath = ""
		}
	}
	key, err := loadKey(keyPath)
	if err != nil {
		return nil, nil, err
	}
	p, err := node.NewPerson(client, key, s.Record)
	return p, func() {}, err
}

// whySilent says what to do about an admin socket that does not answer.
func whySilent(err error, dir node.Dir) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "its socket may be opened only by the user that it runs as: become that user, or root"
	case !dir.Member():
		return fmt.Sprintf("its data directory %s belongs to no cluster yet: make one with `perigee cluster init`, or join one with `perigee node run --join TOKEN`", dir)
	}
	return "start it with `perigee node run`, or name another cluster with --context"
}

// fromContext talks to a cluster over the mesh port, as the person who logged in.
func (t *target) fromContext(ctx context.Context, name string) (*node.Person, func(), error) {
	c, err := loadContext(name)
	if err != nil {
		return nil, nil, err
	}
	keyPath := t.key
	if keyPath == "" {
		keyPath = c.keyPath()
	}
	key, err := loadKey(keyPath)
	if err != nil {
		return nil, nil, fmt.Errorf("context %s: %w", name, err)
	}
	p, done, err := node.Dial(ctx, c.Addrs, key, c.Genesis)
	if errors.Is(err, identity.ErrOtherCA) { // the cluster may have been restored from a backup
		if c.Genesis, err = node.Follow(ctx, c.Addrs, c.Genesis); err == nil {
			err = c.save()
		}
		if err == nil {
			p, done, err = node.Dial(ctx, c.Addrs, key, c.Genesis)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("context %s: %w", name, err)
	}
	if err := c.learn(ctx, p); err != nil {
		done()
		return nil, nil, fmt.Errorf("context %s: %w", name, err)
	}
	return p, done, nil
}

// learn keeps where the cluster's nodes are now, so that the context outlives those it was made with.
func (c clusterContext) learn(ctx context.Context, p *node.Person) error {
	s, err := p.Status(ctx)
	if err != nil {
		return err
	}
	if len(s.Addrs) == 0 || slices.Equal(slices.Sorted(slices.Values(s.Addrs)), slices.Sorted(slices.Values(c.Addrs))) {
		return nil
	}
	c.Addrs = s.Addrs
	return c.save()
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	if path == "" {
		return nil, nil
	}
	return identity.LoadKey(path)
}

// dataDir is the node's data directory; relative paths count from the configuration's folder.
func dataDir(config string, cfg configs.Node) string { return beside(config, cfg.DataDir) }

func socketOf(config string, cfg configs.Node) string {
	if cfg.AdminSocket != "" {
		return beside(config, cfg.AdminSocket)
	}
	return node.Dir(dataDir(config, cfg)).Socket()
}

func beside(file, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}

func besideAll(file string, paths []string) []string {
	out := make([]string, len(paths))
	for i, path := range paths {
		out[i] = beside(file, path)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
