package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// perigeeNode is a node in a directory of its own.
type perigeeNode struct {
	bin, dir string
}

func (n perigeeNode) run(args ...string) (string, error) {
	c := exec.Command(n.bin, args...)
	c.Dir = n.dir
	c.Env = append(os.Environ(), "PERIGEE_HOME="+filepath.Join(n.dir, "home"))
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("perigee %v: %w\n%s", args, err, out)
	}
	return string(bytes.TrimSpace(out)), nil
}

// until runs a command until it succeeds.
func (n perigeeNode) until(limit time.Duration, ok func(out string) bool, args ...string) error {
	var out string
	var err error
	for began := time.Now(); time.Since(began) < limit; time.Sleep(100 * time.Millisecond) {
		if out, err = n.run(args...); err == nil && ok(out) {
			return nil
		}
	}
	return fmt.Errorf("perigee %v within %v: %v\n%s", args, limit, err, out)
}

// pid asks the node which process it is; 0 = it does not say.
func (n perigeeNode) pid() int {
	out, err := n.run("status", "--json", "--config", "node.toml")
	var s struct{ PID int }
	if err != nil || json.Unmarshal([]byte(out), &s) != nil {
		return 0
	}
	return s.PID
}

func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// buildHello makes a function of examples/hello, at localhost.
func buildHello(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", filepath.Join(dir, "hello.wasm"), ".")
	build.Dir, build.Env = "../../examples/hello", append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/hello: %w\n%s", err, out)
	}
	manifest := "name = \"hello\"\nwasm = \"hello.wasm\"\n[[route]]\nhost = \"" + host + "\"\n"
	return os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(manifest), 0o600)
}

// buildSocket makes a function of examples/middleware, with an origin that speaks WebSocket.
func buildSocket(dir, origin string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", filepath.Join(dir, "socket.wasm"), ".")
	build.Dir, build.Env = "../../examples/middleware", append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/middleware: %w\n%s", err, out)
	}
	manifest := fmt.Sprintf("name = \"socket\"\nwasm = \"socket.wasm\"\nnext = \"http://%s\"\n[[route]]\nhost = %q\npath = %q\n[env]\nKEYS = \"%x\"\n",
		origin, host, socketPath, sha256.Sum256([]byte(socketKey)))
	return os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(manifest), 0o600)
}

// startNode runs a node with examples/hello, isolated, at localhost. If there is an origin of WebSockets, a function leads to it.
func startNode(bin, dir, origin string) (*server, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	n := perigeeNode{bin, filepath.Join(dir, "node")}
	if err := buildHello(filepath.Join(n.dir, "hello")); err != nil {
		return nil, err
	}
	https := freeAddr()
	if _, err := n.run("cluster", "init", "--region", "fra", "--listen", freeAddr(), "--https", https, "--http", "", "--admin-http", ""); err != nil {
		return nil, err
	}
	functions := []string{"hello"}
	if origin != "" {
		functions = append(functions, "socket")
		if err := buildSocket(filepath.Join(n.dir, "socket"), origin); err != nil {
			return nil, err
		}
		if err := n.allow(origin); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(n.dir, "log"))
	if err != nil {
		return nil, err
	}
	s, err := start("isolated", https, log, bin, "node", "run", "--config", filepath.Join(n.dir, "node.toml"))
	if err != nil {
		return nil, err
	}
	for _, fn := range functions {
		if _, err := n.run("deploy", fn, "--wait", "1m"); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

// allow has functions reach an address, by the node's settings.
func (n perigeeNode) allow(addr string) error {
	path := filepath.Join(n.dir, "node.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(fmt.Appendf(nil, "outbound_allow = [%q]\n", addr), b...), 0o600)
}
