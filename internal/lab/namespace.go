//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name: a thread that lives in it, and what that started
// there, keep it alive.
type namespace struct {
	fd   int         // of the namespace, for visits
	work chan func() // closed by close
	done chan struct{}
}

var errClosed = errors.New("the lab is closed")

// newNamespace starts the thread. With ownMounts, it and its children see mounts that nobody else sees.
func newNamespace(ownMounts bool) (*namespace, error) {
	ns := &namespace{work: make(chan func()), done: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(ns.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		flags := unix.CLONE_NEWNET
		if ownMounts {
			flags |= unix.CLONE_NEWNS
		}
		err := unix.Unshare(flags)
		if err == nil && ownMounts {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
		if err != nil {
			return
		}
		defer unix.Close(ns.fd)
		for f := range ns.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return ns, nil
}

// do calls f on the namespace's thread and returns its error. f must not wait for another do.
func (ns *namespace) do(f func() error) error {
	answer := make(chan error, 1)
	select {
	case ns.work <- func() { answer <- f() }:
		return <-answer
	case <-ns.done:
		return errClosed
	}
}

// visit calls f on a new thread in the namespace, for what may take a while.
func (ns *namespace) visit(f func() error) error {
	answer := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // as above
		err := unix.Setns(ns.fd, unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("enter a network namespace: %w", err)
		} else {
			err = f()
		}
		answer <- err
	}()
	return <-answer
}

// ip runs commands of the ip tool in the namespace.
func (ns *namespace) ip(commands ...string) error {
	return ns.do(func() error {
		c := exec.Command("ip", "-batch", "-")
		c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("ip -batch: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

// close ends the thread, and with it whatever was started from it and still runs.
func (ns *namespace) close() {
	close(ns.work)
	<-ns.done
}
