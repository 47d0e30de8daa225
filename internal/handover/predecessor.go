package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Predecessor is the process that this one takes over from.
type Predecessor struct {
	Offer
	line      *line
	listeners map[string]net.Listener
	packets   map[string]net.PacketConn
}

// Inherit returns the process that started this one to take over; nil if none did.
func Inherit() (*Predecessor, error) {
	v := os.Getenv(envFD)
	if v == "" {
		return nil, nil
	}
	os.Unsetenv(envFD) // not for the children of this process
	fd, err := strconv.Atoi(v)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%s is no descriptor", envFD, v)
	}
	unix.CloseOnExec(fd)
	conn, err := unixConn(os.NewFile(uintptr(fd), "predecessor"))
	if err != nil {
		return nil, fmt.Errorf("reach the process before this one: %w", err)
	}
	p := &Predecessor{line: newLine(conn), listeners: map[string]net.Listener{}, packets: map[string]net.PacketConn{}}
	if err := p.take(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over the sockets: %w", err)
	}
	return p, nil
}

// take reads the offer.
func (p *Predecessor) take(conn *net.UnixConn) error {
	b, oob := make([]byte, maxWord), make([]byte, unix.CmsgSpace(4*maxSockets))
	n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		return err
	}
	var w word
	if err := json.Unmarshal(b[:n], &w); err != nil {
		return err
	}
	if w.Offer == nil {
		return fmt.Errorf("no offer in %q", b[:n])
	}
	p.Offer = *w.Offer
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	var fds []int
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		fds = append(fds, more...)
	}
	if len(fds) != len(w.Sockets) {
		return fmt.Errorf("%d sockets for %d names", len(fds), len(w.Sockets))
	}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		if err := p.keep(w.Sockets[i], os.NewFile(uintptr(fd), w.Sockets[i])); err != nil {
			return fmt.Errorf("%s: %w", w.Sockets[i], err)
		}
	}
	return nil
}

func (p *Predecessor) keep(name string, f *os.File) error {
	defer f.Close()
	if l, err := net.FileListener(f); err == nil {
		p.listeners[name] = l
		return nil
	}
	c, err := net.FilePacketConn(f)
	if err == nil {
		p.packets[name] = c
	}
	return err
}

// Listener returns the listener of a name and gives it away; nil if there is none. It is for a nil
// Predecessor, too.
func (p *Predecessor) Listener(name string) net.Listener {
	if p == nil {
		return nil
	}
	l := p.listeners[name]
	delete(p.listeners, name)
	return l
}

// PacketConn is like Listener for UDP.
func (p *Predecessor) PacketConn(name string) net.PacketConn {
	if p == nil {
		return nil
	}
	c := p.packets[name]
	delete(p.packets, name)
	return c
}

// AwaitGo says that this process has read its settings, and waits until it may open what only one
// process may have.
func (p *Predecessor) AwaitGo() error {
	if err := p.line.say(word{Is: isPrepared}); err != nil {
		return err
	}
	if err := p.line.hear(isGo, 0); err != nil {
		return fmt.Errorf("the process before this one: %w", err)
	}
	return nil
}

// Ready says that this process serves, and closes the sockets that nobody took.
func (p *Predecessor) Ready() error {
	for _, l := range p.listeners {
		l.Close()
	}
	for _, c := range p.packets {
		c.Close()
	}
	return p.line.say(word{Is: isReady})
}

// AwaitEnd returns when the predecessor has ended, or ctx.
func (p *Predecessor) AwaitEnd(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { p.line.conn.Close() })()
	_, _ = io.Copy(io.Discard, p.line.conn) // it says no more
	p.line.conn.Close()
}
