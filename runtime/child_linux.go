package runtime

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setGroup gives the child a process group of its own, by which limitSelf finds all its threads.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// limitSelf lowers the limits and the priority of this process, for good. RLIMIT_AS is left alone: Go
// reserves far more addresses than it uses.
func limitSelf(data uint64, cpu time.Duration) error {
	spent := make(chan os.Signal, 1)
	signal.Notify(spent, unix.SIGXCPU) // without this Go ignores it
	go func() {
		<-spent
		fmt.Fprintln(os.Stderr, processorSpent)
		os.Exit(1)
	}()
	seconds := uint64((cpu + time.Second - 1) / time.Second)
	for _, l := range []struct {
		what int
		lim  unix.Rlimit
	}{
		{unix.RLIMIT_DATA, unix.Rlimit{Cur: data, Max: data}},
		{unix.RLIMIT_CPU, unix.Rlimit{Cur: seconds, Max: seconds + 2}}, // SIGXCPU, then SIGKILL
		{unix.RLIMIT_CORE, unix.Rlimit{}},
	} {
		if err := unix.Setrlimit(l.what, &l.lim); err != nil {
			return fmt.Errorf("setrlimit %d: %w", l.what, err)
		}
	}
	// A thread's priority is its own on Linux, but a group means all threads of its members.
	if unix.Getpgrp() == unix.Getpid() {
		_ = unix.Setpriority(unix.PRIO_PGRP, 0, 10)
	}
	return nil
}

// watchMemory calls over once if the process has more than most bytes resident. The function that it
// returns ends the watch and waits for it.
func watchMemory(pid int, most int64, over func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
			if err != nil {
				return // it has ended
			}
			fields := bytes.Fields(b)
			if len(fields) < 2 {
				continue
			}
			if pages, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil && pages*int64(os.Getpagesize()) > most {
				over()
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
