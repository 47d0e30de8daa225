// Poison measures how many nodes a revision harms that kills the process which runs it, and prints
// "name value" lines. Four nodes in two regions are processes of this program, started again when they
// die, as a service manager would. A node kills itself, with a signal that nothing can catch, a second
// after it has loaded the module that POISON names by its bundle's digest: its runner died of it.
//
// Counted are the nodes that died at least once. At the end all of them must answer with the revision
// before. It needs bin/perigee for the admission child.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

const (
	killAfter = time.Second // that a runner lives with what kills it
	deadline  = 90 * time.Second
	rounds    = 3
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "node" {
		if err := runNode(node.Dir(os.Args[2])); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		return
	}
	worst := 0
	for range rounds {
		harmed, err := measure(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, "poison:", err)
			os.Exit(1)
		}
		worst = max(worst, harmed)
	}
	fmt.Println("poisoned_nodes", worst)
	fmt.Println("poisoned_nodes_trials", rounds)
}

// killer is a log handler that ends the process after it has loaded the poisonous module.
type killer struct {
	slog.Handler
	digest string
}

func (k killer) Enabled(context.Context, slog.Level) bool { return true }

func (k killer) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if r.Message == "revision loaded" && a.Key == "digest" && a.Value.String() == k.digest {
			time.AfterFunc(killAfter, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
		}
		return true
	})
	return nil
}

func (k killer) WithAttrs([]slog.Attr) slog.Handler { return k }

func runNode(dir node.Dir) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	admit, err := filepath.Abs("bin/perigee")
	if err != nil {
		return err
	}
	n, err := node.New(node.Config{
		Dir: dir, Listen: os.Getenv("LISTEN"), Advertise: os.Getenv("LISTEN"), Admit: []string{admit, "admit"},
		Logger: slog.New(killer{Handler: slog.DiscardHandler, digest: os.Getenv("POISON")}),
	})
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// process is a node that is started again when it dies.
type process struct {
	dir    node.Dir
	listen string
	env    []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	deaths int
	ended  bool
	done   chan struct{}
}

func (p *process) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.done = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		for first := true; ; first = false {
			p.mu.Lock()
			if p.ended {
				p.mu.Unlock()
				return
			}
			p.cmd = exec.Command(self, "node", string(p.dir))
			p.cmd.Env, p.cmd.Stderr = append(append(os.Environ(), "LISTEN="+p.listen), p.env...), os.Stderr
			err := p.cmd.Start()
			p.mu.Unlock()
			if first {
				started <- err
			}
			if err != nil {
				return
			}
			err = p.cmd.Wait()
			p.mu.Lock()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !p.ended {
				p.deaths++
			}
			p.mu.Unlock()
		}
	}()
	return <-started
}

func (p *process) stop() {
	p.mu.Lock()
	p.ended = true
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	p.mu.Unlock()
	<-p.done
}

func (p *process) client() *node.Client { return node.NewSocketClient(node.SocketPath(p.dir.Socket())) }

// measure runs one cluster and returns how many of its nodes the revision harmed.
func measure(ctx context.Context) (harmed int, err error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tmp, err := os.MkdirTemp("", "poison-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	good, err := pack(filepath.Join(tmp, "good"), wasmtest.Answer("good"))
	if err != nil {
		return 0, err
	}
	bad, err := pack(filepath.Join(tmp, "bad"), wasmtest.Answer("bad"))
	if err != nil {
		return 0, err
	}
	c := &cluster{tmp: tmp, env: []string{"POISON=" + bad.Digest.String()}}
	defer c.stop()
	if err := c.found(ctx); err != nil {
		return 0, err
	}
	for _, region := range []perigee.Region{"fra", "wdc", "wdc"} {
		if err := c.join(ctx, region); err != nil {
			return 0, err
		}
	}
	if err := c.deploy(ctx, good, node.DeployOptions{Rollout: placement.RolloutAll}); err != nil {
		return 0, err
	}
	if err := c.await(ctx, "the good revision everywhere", func(f *node.FunctionStatus) bool { return f.Ready() && f.Rollout == nil && len(f.Holders) == 4 }); err != nil {
		return 0, err
	}
	if err := c.deploy(ctx, bad, node.DeployOptions{}); err != nil {
		return 0, err
	}
	if err := c.await(ctx, "the end of the rollout", func(f *node.FunctionStatus) bool {
		return f.Rollout != nil && f.Rollout.Stage == placement.StageStopped
	}); err != nil {
		return 0, err
	}
	for _, p := range c.nodes {
		if err := c.answers(ctx, p, "good"); err != nil {
			return 0, err
		}
		p.mu.Lock()
		if p.deaths > 0 {
			harmed++
		}
		p.mu.Unlock()
	}
	return harmed, nil
}

type cluster struct {
	tmp    string
	env    []string
	nodes  []*process
	person *node.Person
}

func (c *cluster) stop() {
	for _, p := range c.nodes {
		p.stop()
	}
}

func freeAddr() (string, error) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.LocalAddr().String(), nil
}

func (c *cluster) run(ctx context.Context, dir node.Dir, listen string) error {
	p := &process{dir: dir, listen: listen, env: c.env}
	if err := p.start(); err != nil {
		return err
	}
	c.nodes = append(c.nodes, p)
	return retry(ctx, "all nodes see one another", func() error {
		for _, p := range c.nodes {
			s, err := p.client().Status(ctx)
			if err == nil && s.Alive < len(c.nodes) {
				err = fmt.Errorf("%d alive of %d", s.Alive, len(c.nodes))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *cluster) found(ctx context.Context) error {
	dir := node.Dir(filepath.Join(c.tmp, "n0"))
	f, err := node.Found(node.FoundConfig{Dir: dir, Region: "fra", Domain: "localhost"})
	if err != nil {
		return err
	}
	listen, err := freeAddr()
	if err != nil {
		return err
	}
	if err := c.run(ctx, dir, listen); err != nil {
		return err
	}
	c.person, err = node.NewPerson(c.nodes[0].client(), f.Operator, f.Genesis)
	return err
}

func (c *cluster) join(ctx context.Context, region perigee.Region) error {
	token, err := c.person.CreateToken(ctx, node.TokenSpec{Kind: record.TokenNode, Region: region})
	if err != nil {
		return err
	}
	dir := node.Dir(filepath.Join(c.tmp, fmt.Sprintf("n%d", len(c.nodes))))
	socket, err := node.ListenMesh("127.0.0.1:0")
	if err != nil {
		return err
	}
	listen := socket.LocalAddr().String()
	_, err = node.Join(ctx, node.JoinConfig{Dir: dir, Token: token, Socket: socket})
	socket.Close()
	if err != nil {
		return err
	}
	return c.run(ctx, dir, listen)
}

// function is what a deploy needs.
type function struct {
	*perigee.Manifest
	*bundle.Archive
}

func pack(dir string, wasm []byte) (f function, err error) {
	manifest := []byte("name = \"shop\"\nwasm = \"a.wasm\"\n[placement]\nwarm = { fra = 2, wdc = 2 }\n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return f, err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "perigee.toml"), manifest, 0o644), os.WriteFile(filepath.Join(dir, "a.wasm"), wasm, 0o644)); err != nil {
		return f, err
	}
	if f.Manifest, err = bundle.LoadManifest(dir); err != nil {
		return f, err
	}
	f.Archive, err = bundle.Pack(dir, f.Manifest)
	return f, err
}

func (c *cluster) deploy(ctx context.Context, f function, opt node.DeployOptions) error {
	body := f.Open()
	defer body.Close()
	_, err := c.person.DeployWith(ctx, opt, f.Manifest, f.Digest, perigee.Bytes(f.Size), body, nil)
	return err
}

// await looks through the last node, which is not the one that took the deploy.
func (c *cluster) await(ctx context.Context, what string, ok func(*node.FunctionStatus) bool) error {
	return retry(ctx, what, func() error {
		f, _, err := c.nodes[len(c.nodes)-1].client().Function(ctx, "shop")
		if err == nil && !ok(f) {
			err = fmt.Errorf("%s, holders %+v", f.Rollout.Text(), f.Holders)
		}
		return err
	})
}

func (c *cluster) answers(ctx context.Context, p *process, want string) error {
	return retry(ctx, "a node answers "+want, func() error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shop/", nil)
		if err != nil {
			return err
		}
		resp, err := p.client().Invoke(ctx, "shop", r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && string(b) != want {
			err = fmt.Errorf("%d %q", resp.StatusCode, b)
		}
		return err
	})
}

func retry(ctx context.Context, what string, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(50 * time.Millisecond): // between two looks at another process
		}
	}
}
