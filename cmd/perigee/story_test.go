package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// The stories run the real program as separate processes, on addresses of this machine.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "admit" { // this program as the admission child of a test's own process
		main()
	}
	testscript.Main(withoutLeaks{m}, map[string]func(){"perigee": main})
}

// withoutLeaks fails a run that leaves goroutines behind.
type withoutLeaks struct{ m *testing.M }

func (w withoutLeaks) Run() int {
	code := w.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestStory runs testdata/story. Beside testscript's own commands a story has:
//
//	until DURATION REGEXP COMMAND…   runs a command until its output matches, at most for the duration
//	within DURATION COMMAND…         runs a command once; it must succeed in that time
//	saveas NAME                      keeps what the last command printed as $NAME
//	capture NAME REGEXP              keeps what the group of the expression found in it as $NAME
//	guest KIND DIR                   makes a function of a few bytes (guest_test.go)
//	hello DIR                        copies the built example there
//	wasm FILE HEX…                   writes bytes
//	edit FILE OLD NEW                replaces a text in a file; \n in the new one is a line end
//	sigterm DIR                      sends SIGTERM to the last background command that was started in DIR
//
// and a home of its own, and the ports $MESH, $HTTPS, $HTTP and $ADMIN, free on 127.0.0.1 to 127.0.0.4.
func TestStory(t *testing.T) {
	if testing.Short() {
		t.Skip("stories start real clusters; not in -short")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/story",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupStory,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"until":   until,
			"within":  within,
			"saveas":  saveAs,
			"capture": capture,
			"guest":   writeGuest,
			"hello":   copyHello,
			"wasm":    writeWasm,
			"edit":    edit,
			"sigterm": sigterm,
		},
	})
}

// setupStory gives a story ports that are free now and a home of its own.
func setupStory(env *testscript.Env) error {
	env.Defer(func() { endStrays(env.WorkDir) })
	env.Setenv("PERIGEE_HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	for _, name := range []string{"MESH", "HTTPS", "HTTP", "ADMIN"} {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv(name, port)
	}
	return nil
}

// endStrays ends what still runs in a directory: the successors of a node are no children of the test.
func endStrays(dir string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		cwd, _ := os.Readlink(link)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil && pid != os.Getpid() && (cwd == dir || strings.HasPrefix(cwd, dir+"/")) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// freePort finds a port that is free for TCP and UDP on all loopback addresses a story uses.
func freePort() (string, error) {
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		l.Close()
		if err != nil {
			return "", err
		}
		if portFree(port) {
			return port, nil
		}
	}
	return "", fmt.Errorf("no free port")
}

func portFree(port string) bool {
	for i := range 4 {
		ip := fmt.Sprintf("127.0.0.%d", i+1)
		u, err := net.ListenPacket("udp", net.JoinHostPort(ip, port))
		if err != nil {
			return false
		}
		u.Close()
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: until DURATION REGEXP COMMAND…")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	for start := time.Now(); ; {
		err := ts.Exec(args[2], args[3:]...)
		out := printed(ts)
		took := time.Since(start)
		switch {
		case took > limit:
			ts.Fatalf("%v did not print %q within %v: %v\n%s", args[2:], args[1], limit, err, out)
		case want.MatchString(out):
			ts.Logf("after %v", took.Round(10*time.Millisecond))
			return
		}
		time.Sleep(50 * time.Millisecond) // between two looks at another process
	}
}

func within(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: within DURATION COMMAND…")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	start := time.Now()
	err = ts.Exec(args[1], args[2:]...)
	if took := time.Since(start); err != nil || took > limit {
		ts.Fatalf("%v took %v, want success within %v: %v\n%s", args[1:], took, limit, err, printed(ts))
	}
}

// printed is what the last command printed.
func printed(ts *testscript.TestScript) string { return ts.ReadFile("stdout") + ts.ReadFile("stderr") }

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(printed(ts))
	if len(m) != 2 {
		ts.Fatalf("no group of %q in what was printed", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func saveAs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: saveas NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	before := ts.ReadFile(args[0])
	if !strings.Contains(before, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(before, args[1], strings.ReplaceAll(args[2], `\n`, "\n"))), 0o644))
}

func sigterm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sigterm DIR")
	}
	for _, c := range slices.Backward(ts.BackgroundCmds()) {
		if c.Dir == ts.MkAbs(args[0]) {
			ts.Check(c.Process.Signal(syscall.SIGTERM))
			return
		}
	}
	ts.Fatalf("no background command was started in %s", args[0])
}

func copyHello(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hello DIR")
	}
	wasm, err := buildHello()
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "hello.wasm"), wasm, 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte("name = \"hello\"\nwasm = \"hello.wasm\"\n"), 0o644))
}

// buildHello compiles examples/hello as its manifest says, once for all stories.
var buildHello = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hello-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "hello.wasm")
	c := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, ".")
	c.Dir = "../../examples/hello"
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if b, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build examples/hello: %w\n%s", err, b)
	}
	return os.ReadFile(out)
})

func writeWasm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: wasm FILE HEX…")
	}
	var b []byte
	_, err := fmt.Sscanf(strings.Join(args[1:], ""), "%x", &b)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}
