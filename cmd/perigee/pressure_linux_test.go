package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// handle makes a handler of what it does with a request.
func handle(m *Module, locals int, body ...any) []byte {
	m.Export("handle_request", 0, m.Func(":I", locals, Cat(body...), Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// repeating is a handler that calls a host function for ever.
func repeating(module, name, sig string, args ...int) []byte {
	var m Module
	f := m.Import(module, name, sig)
	m.Memory(1, 0)
	var call []byte
	for _, a := range args {
		call = Cat(call, Const(a))
	}
	return handle(&m, 0, Loop(call, Call(f), Br(0)))
}

// deepest is how often a function with so many locals and bytes of code may call itself.
func deepest(locals, body int) int {
	return wasmbin.MaxDepth/(1+(64+16*locals+8*(body+8)+1023)/1024) - 2
}

// memoryBombs take as much memory as they get, each in its way, until they are ended.
func memoryBombs() map[string][]byte {
	const fill, grow = 11, 0x40
	growing := func() []byte { // all of limits.memory, each page touched
		var m Module
		m.Memory(1, 0)
		return handle(&m, 0, Loop(Const(16), grow, 0, Const(-1), 0x47, 0x0d, 0), Loop(Const(0), Const(7), 0x3f, 0, Const(16), 0x74, 0xfc, fill, 0, Br(0)))
	}
	table := func() []byte {
		var m Module
		m.Memory(1, 0)
		for range 4 {
			m.Table(10, 100_000)
		}
		more := func(t int) []byte { return Cat(0xd0, 0x70, Const(1000), 0xfc, 15, t, 0x1a) }
		return handle(&m, 0, Loop(more(0), more(1), more(2), more(3), Br(0)))
	}
	recursion := func(locals int) []byte { // as deep as it may, time and again: who is too deep is ended, so it stops before
		var m Module
		m.Memory(1, 0)
		var used []byte
		for i := range locals {
			used = Cat(used, 0x20, 0, Const(i), 0x6a, 0x21, U(uint64(i+1)))
		}
		used = Cat(used, 0x20, 0, 0x04, 0x40, 0x20, 0, Const(1), 0x6b, Call(0), 0x1a, 0x0b, Const(0))
		for i := range locals {
			used = Cat(used, 0x20, U(uint64(i+1)), 0x6a)
		}
		f := m.Func("i:i", locals, used)
		return handle(&m, 0, Loop(Const(deepest(locals+1, len(used))), Call(f), 0x1a, Br(0)))
	}
	operands := func(n int) []byte { // few calls, each with a frame as large as its code can make it
		var m Module
		m.Memory(1, 0)
		var values []byte
		for i := range n {
			values = append(values, Cat(Const(i&0xfff), 0x28, 2, 0)...)
		}
		body := Cat(0x20, 0, 0x04, 0x7f, values, 0x20, 0, Const(1), 0x6b, Call(0), Repeat(n, 0x6a), 0x05, Const(0), 0x0b)
		f := m.Func("i:i", 0, body)
		return handle(&m, 0, Loop(Const(deepest(1, len(body))), Call(f), 0x1a, Br(0)))
	}
	filling := func() []byte {
		var m Module
		m.Memory(1024, 1024)
		return handle(&m, 0, Loop(Const(0), Const(1), Const(64<<20), 0xfc, fill, 0, Br(0)))
	}
	return map[string][]byte{
		"growing": growing(), "table": table(), "recursion": recursion(0), "frames": recursion(400), "operands": operands(60_000), "filling": filling(),
		"log":      repeating("http_handler", "log", "iii:", 0, 0, 65536),
		"response": repeating("http_handler", "write_body", "iii:", 1, 0, 65536),
	}
}

// memoryGroup makes a control group of this process's own with a limit of memory and no swap, and returns its
// directory; how it counts kills and the most that was used differ between the versions.
func memoryGroup(t *testing.T, limit int64) (dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skipf("there are no control groups: %v", err)
	}
	parents := []string{} // v1, then v2
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) == 3 && f[1] == "memory":
			parents = append([]string{"/sys/fs/cgroup/memory" + f[2]}, parents...)
		case len(f) == 3 && f[1] == "":
			parents = append(parents, "/sys/fs/cgroup"+f[2])
		}
	}
	for _, parent := range parents {
		dir = filepath.Join(parent, fmt.Sprintf("perigee-test-%d", os.Getpid()))
		if err = os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		if err = os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), fmt.Append(nil, limit), 0); err == nil {
			_ = os.WriteFile(filepath.Join(dir, "memory.memsw.limit_in_bytes"), fmt.Append(nil, limit), 0)
			return dir
		}
		if err = os.WriteFile(filepath.Join(dir, "memory.max"), fmt.Append(nil, limit), 0); err == nil {
			_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0)
			return dir
		}
	}
	t.Skipf("no control group can be made to limit memory: %v", err)
	return ""
}

// groupFigure reads a number of a control group, from whichever file has it.
func groupFigure(dir string, files map[string]string) (n int64) {
	for file, key := range files {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut("\n"+string(b), "\n"+key)
		_, _ = fmt.Sscan(rest, &n)
	}
	return n
}

// TestMemoryPressure runs a node in a control group that has the node's memory budget and 5 % more, and has all
// kinds of guests take what they can, many at once: nothing is killed, and a neighbour answers.
func TestMemoryPressure(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a node for some seconds; not in -short")
	}
	const budget = 1 << 30
	group := memoryGroup(t, budget/100*105)
	home := t.TempDir()
	t.Setenv("PERIGEE_HOME", filepath.Join(home, "home"))
	t.Setenv("HOME", filepath.Join(home, "home"))
	ports := [2]string{}
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			t.Fatal(err)
		}
	}
	perigee := func(args ...string) {
		t.Helper()
		c := exec.Command("perigee", args...)
		c.Dir = home
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("perigee %v: %v\n%s", args, err, out)
		}
	}
	perigee("cluster", "init", "--region", "fra", "--domain", "localhost", "--listen", "127.0.0.1:"+ports[0], "--https", "", "--http", "127.0.0.1:"+ports[1], "--admin-http", "")
	settings := filepath.Join(home, "node.toml")
	b, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, append(b, "\nmemory = \"1GiB\"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	node := exec.Command("/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec perigee node run`, group)
	node.Dir, node.Stderr = home, &strings.Builder{}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- node.Wait() }()
	for start := time.Now(); ; {
		c := exec.Command("perigee", "status")
		c.Dir = home
		if out, err := c.CombinedOutput(); err == nil && strings.Contains(string(out), "ready") {
			break
		} else if time.Since(start) > 30*time.Second {
			t.Fatalf("the node is not ready: %v\n%s\n%s", err, out, node.Stderr)
		}
		time.Sleep(50 * time.Millisecond) // between two looks at another process
	}

	bombs := memoryBombs()
	bombs["neighbour"] = Answer("fine")
	for name, wasm := range bombs {
		dir := filepath.Join(home, name)
		manifest := fmt.Sprintf("name = %q\nwasm = \"f.wasm\"\n[limits]\nmemory = \"128MiB\"\ntimeout = \"1s\"\n", name)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f.wasm"), wasm, 0o644),
			os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(manifest), 0o644)); err != nil {
			t.Fatal(err)
		}
		perigee("deploy", dir)
	}

	most := func() int64 {
		return groupFigure(group, map[string]string{"memory.max_usage_in_bytes": "", "memory.peak": ""})
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	get := func(name string) (int, string) {
		r, _ := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+ports[1]+"/", nil)
		r.Host = name + ".localhost"
		resp, err := client.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		n, _ := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<30))
		return resp.StatusCode, fmt.Sprint(n)
	}
	var asked, answered, refused atomic.Int64
	statuses := sync.Map{}
	count := func(name string, status int) {
		n, _ := statuses.LoadOrStore(fmt.Sprint(name, " ", status), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
	for _, phase := range [][]string{{"operands"}, {"growing", "filling"}, {"recursion", "frames", "table", "log", "response"}} {
		var wg sync.WaitGroup
		stop := time.Now().Add(phaseTime)
		for _, name := range phase {
			for range atOnce {
				wg.Go(func() {
					for time.Now().Before(stop) {
						status, _ := get(name)
						count(name, status)
						if status == http.StatusServiceUnavailable {
							time.Sleep(20 * time.Millisecond)
						}
					}
				})
			}
		}
		wg.Go(func() {
			for time.Now().Before(stop) {
				status, body := get("neighbour")
				count("neighbour", status)
				asked.Add(1)
				switch {
				case status == http.StatusOK && body == "4":
					answered.Add(1)
				case status == http.StatusServiceUnavailable: // the budget is taken
					refused.Add(1)
				default:
					t.Errorf("the neighbour: %d %s", status, body)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
		wg.Wait()
		t.Logf("%v: most_mib %d", phase, most()>>20)
	}
	status, body := get("neighbour")
	kills := groupFigure(group, map[string]string{"memory.oom_control": "oom_kill ", "memory.events": "oom_kill "})
	statuses.Range(func(k, v any) bool { t.Logf("%s: %d", k, v.(*atomic.Int64).Load()); return true })
	t.Logf("kills %d most_mib %d of %d, neighbour asked %d answered %d refused %d", kills, most()>>20, budget/100*105>>20, asked.Load(), answered.Load(), refused.Load())
	if kills != 0 || status != http.StatusOK || body != "4" {
		t.Errorf("%d kills; afterwards the neighbour answers %d %s", kills, status, body)
	}
	select {
	case err := <-ended:
		t.Fatalf("the node ended: %v\n%s", err, node.Stderr)
	default:
	}
	_ = node.Process.Signal(syscall.SIGTERM)
	if err := <-ended; err != nil {
		t.Errorf("the node ended with %v\n%s", err, node.Stderr)
	}
}

const (
	phaseTime = 2 * time.Second
	atOnce    = 24 // requests of each kind
)
