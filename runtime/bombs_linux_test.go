package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// decided is what came of one module.
type decided struct {
	Name   string
	Bytes  int
	Rule   string        // that refused it; "" = accepted
	Err    string        // anything else
	Wall   time.Duration // until it was decided
	Child  time.Duration // processor time of the child
	Loaded string        // what came of loading and asking it, if it was accepted
}

// campaign is what a process says that was given bombs.
type campaign struct {
	Decided   []decided
	Growth    int64 // of its resident memory at the highest, while it decided, in bytes
	ChildMost int64 // resident bytes of the largest child
	Answers   int   // of the neighbour meanwhile
	Failures  int   // of the neighbour
	Longest   time.Duration
}

// bombsMain is a process with a runtime, in which a function answers all the time while each file of a
// directory is admitted, and what is accepted loaded and asked.
func bombsMain(dir string) int {
	err := runCampaign(dir, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runCampaign(dir string, out io.Writer) error {
	r, err := runtime.New(runtime.Config{Dir: filepath.Join(dir, "code"), Admit: []string{os.Args[0], "admit"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx, c := context.Background(), campaign{}
	if err := r.Load(ctx, "neighbour", runtime.Spec{Function: "neighbour", Wasm: wasmtest.Answer("fine")}); err != nil {
		return err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			start := time.Now()
			w := httptest.NewRecorder()
			_, err := r.Invoke(ctx, "neighbour", w, get("/"), nil)
			c.Longest = max(c.Longest, time.Since(start))
			if c.Answers++; err != nil || w.Body.String() != "fine" {
				c.Failures++
			}
		}
	}()
	files, err := filepath.Glob(filepath.Join(dir, "*.wasm"))
	if err != nil {
		return err
	}
	goruntime.GC()
	before := statusBytes("VmRSS")
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // VmHWM begins anew
		return err
	}
	for _, name := range files {
		wasm, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		c.Decided = append(c.Decided, decide(r, filepath.Base(name), wasm))
	}
	c.Growth = statusBytes("VmHWM") - before
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		return err
	}
	c.ChildMost = children.Maxrss << 10
	for i := range c.Decided {
		d := &c.Decided[i]
		if d.Rule != "" || d.Err != "" {
			continue
		}
		wasm, err := os.ReadFile(filepath.Join(dir, d.Name))
		if err != nil {
			return err
		}
		d.Loaded = ask(r, perigee.RevisionID(d.Name), wasm)
	}
	close(stop)
	<-stopped
	if err := r.Close(ctx); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(c)
}

func decide(r *runtime.Runtime, name string, wasm []byte) decided {
	d := decided{Name: name, Bytes: len(wasm)}
	start, spent := time.Now(), childrenTime()
	_, err := r.Admit(context.Background(), perigee.Digest{}, wasm)
	d.Wall, d.Child = time.Since(start), childrenTime()-spent
	var no *runtime.ErrRefused
	switch {
	case errors.As(err, &no):
		d.Rule = no.Rule
	case err != nil:
		d.Err = err.Error()
	}
	return d
}

// ask loads a module and lets it answer one request.
func ask(r *runtime.Runtime, id perigee.RevisionID, wasm []byte) string {
	err := r.Load(context.Background(), id, runtime.Spec{Function: "bomb", Wasm: wasm, Limits: perigee.Limits{Timeout: perigee.Duration(time.Second)}})
	if err != nil {
		return err.Error()
	}
	defer r.Unload(id)
	_, err = r.Invoke(context.Background(), id, httptest.NewRecorder(), get("/"), nil)
	return fmt.Sprint(err)
}

// childrenTime is the processor time of all children that have ended.
func childrenTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// statusBytes reads a size from /proc/self/status.
func statusBytes(key string) (n int64) {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), key+":")
	_, _ = fmt.Sscanf(rest, "%d", &n)
	return n << 10
}

// TestBombs gives bombs of all kinds to a process of its own: it must live, decide each in its time and memory,
// and go on answering. With PERIGEE_BOMBS=1 (make bombs) these are all sizes, and all valid guests there are,
// which must be accepted; without, the smallest of each kind.
func TestBombs(t *testing.T) {
	if runtime.Instrumented > 1 {
		t.Skip("the child's limits are ten times as high under the race detector, and no goroutine of ours is in it")
	}
	all := os.Getenv("PERIGEE_BOMBS") != ""
	dir := t.TempDir()
	rules, refused := map[string]string{}, 0
	write := func(name string, wasm []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), wasm, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bomb := range wasmtest.Bombs() {
		for i, n := range bomb.Sizes {
			if i > 0 && !all {
				break
			}
			name := fmt.Sprintf("%s-%d.wasm", bomb.Kind, n)
			rules[name] = bomb.Rule
			write(name, bomb.Wasm(n))
		}
	}
	valid := map[string]bool{}
	if all {
		for name, wasm := range validGuests(t) {
			valid[name] = true
			write(name, wasm)
		}
	}

	cmd := exec.Command(os.Args[0], "bombs", dir)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the process with the runtime ended: %v", err)
	}
	var c campaign
	if err := json.Unmarshal(out, &c); err != nil {
		t.Fatal(err)
	}
	var longest time.Duration
	for _, d := range c.Decided {
		limit := 2*time.Second + time.Duration((d.Bytes+1<<20-1)>>20)*time.Second
		// The kernel ends a child a little after its limit.
		if longest = max(longest, d.Child); d.Child > limit+time.Second {
			t.Errorf("%s (%d bytes): the child took %v of processor time, more than %v", d.Name, d.Bytes, d.Child, limit)
		}
		rule := rules[d.Name]
		switch {
		case d.Err != "":
			t.Errorf("%s: %s", d.Name, d.Err)
		case rule != "" && d.Rule != rule, valid[d.Name] && d.Rule != "":
			t.Errorf("%s: refused by %q, want %q", d.Name, d.Rule, rule)
		case rule != "":
			refused++
		case d.Rule != "" && d.Rule != "compile-cpu" && d.Rule != "compile-memory":
			t.Errorf("%s: refused by %s", d.Name, d.Rule)
		}
		t.Logf("%-32s %8d bytes %6d ms, child %5d ms: %s%s", d.Name, d.Bytes, d.Wall.Milliseconds(), d.Child.Milliseconds(), d.Rule, d.Loaded)
	}
	t.Logf("modules %d refused_by_structure %d parent_growth_mib %d child_most_mib %d child_longest_ms %d neighbour_answers %d neighbour_failures %d neighbour_longest_ms %d",
		len(c.Decided), refused, c.Growth>>20, c.ChildMost>>20, longest.Milliseconds(), c.Answers, c.Failures, c.Longest.Milliseconds())
	if len(c.Decided) != len(rules)+len(valid) || c.Failures > 0 || c.Answers < 10 {
		t.Errorf("%d of %d modules decided; the neighbour answered %d times and failed %d", len(c.Decided), len(rules)+len(valid), c.Answers, c.Failures)
	}
	if c.Growth > 64<<20 {
		t.Errorf("the process grew by %d bytes, more than 64 MiB", c.Growth)
	}
	if c.ChildMost > 1<<30 {
		t.Errorf("a child took %d bytes, more than 1 GiB", c.ChildMost)
	}
}

// validGuests are the core modules of the repository and of the outside suites.
func validGuests(t *testing.T) map[string][]byte {
	all := map[string][]byte{"repo-hello.wasm": hello(t), "repo-guest.wasm": testguest(t), "repo-caller.wasm": build(t, filepath.Join("testdata", "caller"))}
	for _, pattern := range []string{"http-wasm/*.wasm", "http-wasm/*/*.wasm", "wasip1/*/*.wasm"} {
		files, err := filepath.Glob(filepath.Join(conformance(t), filepath.FromSlash(pattern)))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, name := range files {
			wasm, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all["valid-"+filepath.Base(filepath.Dir(name))+"-"+filepath.Base(name)] = wasm
		}
	}
	return all
}
