package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// The limits of the admission child.
const (
	maxModule = 64 << 20 // bytes of a module

	childMemory = instrumented << 30  // bytes resident; what the parent watches
	childData   = childMemory * 5 / 4 // bytes of private writable memory; what the child sets itself
	childOutput = 1 << 20             // bytes that the parent reads of it

	// processorSpent is what the child says when its processor time is over.
	processorSpent = "SIGXCPU: processor time is spent"

	// wallPerCPU is how much longer than its processor time the child may take: it runs at low
	// priority on a machine that has other work.
	wallPerCPU = 10
)

// childCPU is the processor time that a module of that many bytes may take to check and compile.
func childCPU(size int) time.Duration {
	return instrumented * (2*time.Second + time.Duration((size+1<<20-1)>>20)*time.Second)
}

// Admit decides whether a module can be a function here: it is checked, and compiled in a child
// process. The compiled code is kept for Load. d names the bundle in logs; receipts are by the
// module's own digest, so bundles with the same module compile once, and a module that was admitted
// before is not compiled again. Errors: an *ErrRefused, or what went wrong on this node. One child
// runs at a time; others wait.
func (r *Runtime) Admit(ctx context.Context, d perigee.Digest, wasm []byte) (Report, error) {
	rec, err := r.admitted(ctx, d, wasm)
	if err != nil {
		return Report{}, fmt.Errorf("admit %s: %w", d.Short(), err)
	}
	return rec.Report, nil
}

// admitted returns the receipt of a module, after making it if need be.
func (r *Runtime) admitted(ctx context.Context, d perigee.Digest, wasm []byte) (receipt, error) {
	if len(wasm) > maxModule {
		return receipt{}, &ErrRefused{Rule: "max-module", Detail: fmt.Sprintf("the module has %d bytes; at most %d are accepted", len(wasm), maxModule)}
	}
	module := digest.Sum(wasm)
	if rec, err := r.readReceipt(module); err == nil {
		return rec, nil
	}
	select {
	case r.admitting <- struct{}{}:
		defer func() { <-r.admitting }()
	case <-ctx.Done():
		return receipt{}, fmt.Errorf("wait for other admissions: %w", context.Cause(ctx))
	}
	unlock, err := lockAdmission(ctx, r.config.Dir)
	if err != nil {
		return receipt{}, err
	}
	defer unlock()
	rec, err := r.readReceipt(module) // another may have made it meanwhile
	if err == nil {
		return rec, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		r.config.Logger.Warn("compiled code is made again", "digest", d, "err", err)
	}
	if _, err := Check(wasm); err != nil { // cheap: it spares most bad modules a process
		r.config.Metrics.admit("refused", 0)
		return receipt{}, err
	}
	start := time.Now()
	rec, err = r.compileInChild(ctx, module, wasm)
	var no *ErrRefused
	switch {
	case errors.As(err, &no):
		r.config.Metrics.admit("refused", time.Since(start))
	case err != nil:
		r.config.Metrics.admit("failed", time.Since(start))
	default:
		r.config.Metrics.admit("accepted", time.Since(start))
		r.config.Logger.Info("module admitted", "digest", d, "dur", time.Since(start))
	}
	return rec, err
}

// verdict is what the child prints.
type verdict struct {
	Engine  string         `json:"engine"`
	Module  perigee.Digest `json:"module"` // its skeleton
	Report  *Report        `json:"report,omitempty"`
	Refused *ErrRefused    `json:"refused,omitempty"`
	Compile int64          `json:"compile_ms"`
}

// compileInChild runs the child on a module and takes over what it made. Nothing of a child that
// fails is kept.
func (r *Runtime) compileInChild(ctx context.Context, module perigee.Digest, wasm []byte) (receipt, error) {
	staging, err := os.MkdirTemp(r.config.Dir, stagingPrefix)
	if err != nil {
		return receipt{}, fmt.Errorf("make room for the child: %w", err)
	}
	defer os.RemoveAll(staging)
	v, err := r.runChild(ctx, staging, wasm)
	if err != nil {
		return receipt{}, err
	}
	if v.Refused != nil {
		return receipt{}, v.Refused
	}
	if v.Engine != engineID(r.codeID) || v.Report == nil {
		return receipt{}, fmt.Errorf("the admission child has engine %s and this process has %s: restart the node after an upgrade", v.Engine, engineID(r.codeID))
	}
	made, err := filepath.Glob(filepath.Join(staging, r.codeID, "*"))
	if err != nil || len(made) != 1 {
		return receipt{}, fmt.Errorf("the admission child left %d files of compiled code; want 1", len(made))
	}
	rec := receipt{
		Module: module, Engine: v.Engine, Entry: r.codeID + "/" + filepath.Base(made[0]),
		Skeleton: v.Module, Report: *v.Report, Made: time.Now().UTC(),
	}
	if rec.Code, rec.Size, err = digestFile(made[0]); err != nil {
		return receipt{}, err
	}
	target := r.codeName(rec)
	if err := os.Rename(made[0], target); err != nil {
		return receipt{}, fmt.Errorf("keep compiled code: %w", err)
	}
	if err := syncDir(filepath.Dir(target)); err != nil {
		return receipt{}, fmt.Errorf("keep compiled code: %w", err)
	}
	rec.Report.Compiled, rec.Report.Compile = rec.Size, v.Compile
	if err := r.writeReceipt(rec); err != nil {
		return receipt{}, err
	}
	r.evict(module)
	return rec, nil
}

// Why a child is ended.
var (
	errChildMemory = errors.New("memory")
	errChildWall   = errors.New("wall time")
)

// runChild runs the child and returns what it printed. A child that dies over the module refuses it.
func (r *Runtime) runChild(ctx context.Context, staging string, wasm []byte) (verdict, error) {
	cpu := childCPU(len(wasm))
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wall := time.AfterFunc(wallPerCPU*cpu, func() { cancel(errChildWall) })
	defer wall.Stop()

	argv := append(append([]string{}, r.config.Admit...), staging)
	cmd := exec.CommandContext(run, argv[0], argv[1:]...)
	cmd.Env = []string{childEnv} // nothing of ours
	cmd.Stdin = bytes.NewReader(wasm)
	out, problems := &capped{left: childOutput}, &capped{left: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, problems
	cmd.WaitDelay = time.Second
	setGroup(cmd)
	if err := cmd.Start(); err != nil {
		return verdict{}, fmt.Errorf("start the admission child: %w", err)
	}
	stop := watchMemory(cmd.Process.Pid, childMemory, func() { cancel(errChildMemory) })
	err := cmd.Wait()
	stop()

	var v verdict
	if err == nil {
		if err := json.Unmarshal(out.b.Bytes(), &v); err != nil {
			return v, fmt.Errorf("read what the admission child found: %w", err)
		}
		return v, nil
	}
	said := problems.b.String()
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	switch cause := context.Cause(run); {
	case cause == errChildMemory, strings.Contains(said, "out of memory"), strings.Contains(said, "cannot allocate memory"):
		return v, &ErrRefused{Rule: "compile-memory", Detail: fmt.Sprintf("compiling it needs more than %d MiB", childMemory>>20)}
	case strings.Contains(said, processorSpent), used > cpu*9/10: // the kernel counts coarsely
		return v, &ErrRefused{Rule: "compile-cpu", Detail: fmt.Sprintf("compiling its %d bytes takes more than %v of processor time", len(wasm), cpu)}
	case cause == errChildWall:
		return v, fmt.Errorf("the admission child got %v of processor time in %v: the machine is too busy; try again", used.Round(time.Millisecond), wallPerCPU*cpu)
	case ctx.Err() != nil:
		return v, context.Cause(ctx)
	case cmd.ProcessState.ExitCode() < 0: // by a signal that is not ours
		return v, fmt.Errorf("the admission child was ended from outside: %w", err)
	}
	return v, &ErrRefused{Rule: "compile", Detail: fmt.Sprintf("the compiler failed (%v): %s", err, firstLine(said))}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// capped keeps the first bytes that are written to it.
type capped struct {
	b    bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	keep := min(len(p), c.left)
	c.left -= keep
	c.b.Write(p[:keep])
	return len(p), nil
}
