package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// filer is a socket whose descriptor can be had; net's are.
type filer interface {
	SyscallConn() (syscall.RawConn, error)
}

// Successor is a process that is to take over. Its methods are for one goroutine, but for Kill.
type Successor struct {
	cmd  *exec.Cmd
	line *line
	done chan struct{} // closed when the process has ended
	err  error         // why; read after done
	once sync.Once
}

// Start starts a program with the arguments and hands it copies of the sockets, by name: listeners of
// TCP, and UDP sockets that Sibling made. This process keeps its own.
func Start(program string, args []string, offer Offer, sockets map[string]any) (*Successor, error) {
	conn, child, err := pair()
	if err != nil {
		return nil, err
	}
	defer child.Close()
	cmd := exec.Command(program, args...)
	cmd.Args[0] = os.Args[0] // as people know it, whatever the path
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{child}
	cmd.Env = append(os.Environ(), envFD+"=3")
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	s := &Successor{cmd: cmd, line: newLine(conn), done: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	if err := sendOffer(conn, offer, sockets); err != nil {
		s.Kill()
		return nil, fmt.Errorf("pass the sockets to %s: %w", program, err)
	}
	return s, nil
}

func sendOffer(conn *net.UnixConn, offer Offer, sockets map[string]any) error {
	w := word{Offer: &offer}
	var fds []int
	var raws []syscall.RawConn
	for name, s := range sockets {
		f, ok := s.(filer)
		if !ok {
			return fmt.Errorf("%s is a %T, which has no descriptor", name, s)
		}
		raw, err := f.SyscallConn()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.Sockets, raws = append(w.Sockets, name), append(raws, raw)
	}
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	// Not by exec's own means, which set a descriptor to block: Accept in this process would, too.
	send := func() error {
		_, _, err := conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		return err
	}
	for _, raw := range raws { // each stays open until the copies are made
		inner := send
		send = func() (err error) {
			cerr := raw.Control(func(fd uintptr) { fds = append([]int{int(fd)}, fds...); err = inner() })
			return errors.Join(cerr, err)
		}
	}
	return send()
}

// PID returns the process's number.
func (s *Successor) PID() int { return s.cmd.Process.Pid }

// AwaitPrepared waits until it has read its settings, at most for d.
func (s *Successor) AwaitPrepared(d time.Duration) error { return s.hear(isPrepared, d) }

// Go tells it that what only one process may have is free now.
func (s *Successor) Go() error { return s.line.say(word{Is: isGo}) }

// AwaitReady waits until it could serve, at most for d.
func (s *Successor) AwaitReady(d time.Duration) error { return s.hear(isReady, d) }

func (s *Successor) hear(is string, d time.Duration) error {
	err := s.line.hear(is, d)
	if err == nil {
		return nil
	}
	select {
	case <-s.done:
		if s.err != nil {
			return fmt.Errorf("the new process ended (%w)", s.err)
		}
		return errors.New("the new process ended")
	case <-time.After(100 * time.Millisecond): // for its end, if that is why
		return fmt.Errorf("the new process: %w", err)
	}
}

// Kill ends a successor that failed, and waits until it has. It may be called more than once.
func (s *Successor) Kill() {
	s.once.Do(func() {
		_ = s.cmd.Process.Kill() // it has ended already, at worst
		<-s.done
		s.line.conn.Close()
	})
}
