//go:build linux

package runtime_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	perigeeruntime "github.com/perigee-edge/perigee/runtime"
)

// hogMain limits itself as the admission child does, and then takes more of what it is told to.
func hogMain(what string) int {
	processor := time.Second
	if what == "memory" {
		processor = time.Minute
	}
	if err := perigeeruntime.LimitSelf(perigeeruntime.Instrumented*256<<20, processor); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	switch what {
	case "memory":
		var all [][]byte
		for range perigeeruntime.Instrumented << 10 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		runtime.KeepAlive(all)
	case "processor":
		for start := time.Now(); time.Since(start) < 10*time.Second; {
			for i := range 1 << 20 {
				_ = i
			}
		}
	case "priority":
		stat, _ := os.ReadFile("/proc/self/task/" + fmt.Sprint(syscall.Gettid()) + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		fmt.Print(strings.Fields(rest)[16])
	}
	return 0
}

// TestChildLimits checks that the child can't take more than it is given, even when nobody watches.
func TestChildLimits(t *testing.T) {
	run := func(what string) (string, *exec.ExitError) {
		cmd := exec.Command(os.Args[0], "hog", what)
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), exit
	}
	if out, exit := run("memory"); exit == nil || !strings.Contains(out, "out of memory") && !strings.Contains(out, "failed to allocate") {
		t.Errorf("memory: %v\n%.500s", exit, out)
	}
	if out, exit := run("processor"); exit == nil || !strings.Contains(out, "SIGXCPU") {
		t.Errorf("processor: %v\n%.500s", exit, out)
	}
	if out, exit := run("priority"); exit != nil || out != "10" {
		t.Errorf("priority: nice %q, %v", out, exit)
	}
}

// TestWatchMemory checks the watch from outside.
func TestWatchMemory(t *testing.T) {
	over := make(chan struct{})
	stop := perigeeruntime.WatchMemory(os.Getpid(), 1<<20, func() { close(over) })
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Error("a process of more than 1 MiB was not noticed")
	}
	stop()
}
