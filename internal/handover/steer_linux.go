package handover

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Sibling opens a second socket on the port of an open one, for a successor. What comes goes on to the
// first, but for what Steer names.
//
// Ports are opened for one process alone, so that a second node on them is refused; from here to Alone
// another socket of the same user could be opened on this one.
func Sibling(first net.PacketConn, to Steering) (net.PacketConn, error) {
	raw, err := rawOf(first)
	if err != nil {
		return nil, err
	}
	if err := reuse(raw, 1); err != nil {
		return nil, fmt.Errorf("share the port: %w", err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return reuse(c, 1) }}
	second, err := lc.ListenPacket(context.Background(), "udp", first.LocalAddr().String())
	if err == nil {
		if err = Steer(first, to); err != nil {
			second.Close()
		}
	}
	if err != nil {
		_ = reuse(raw, 0) // as it was
		return nil, fmt.Errorf("open the port %s a second time: %w", first.LocalAddr(), err)
	}
	return second, nil
}

// Alone lets no other socket on the port any more. It is for when the other one is closed: the kernel
// steers between sockets only as long as they let others in.
func Alone(c net.PacketConn) error {
	raw, err := rawOf(c)
	if err != nil {
		return err
	}
	return reuse(raw, 0)
}

// Steer says which packets of a port with two sockets go to which. It may be called on either.
func Steer(socket net.PacketConn, to Steering) error {
	raw, err := rawOf(socket)
	if err != nil {
		return err
	}
	prog, err := to.program()
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(prog))
	for i, op := range prog {
		filter[i] = unix.SockFilter{Code: op.Op, Jt: op.Jt, Jf: op.Jf, K: op.K}
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("steer the packets of %s: %w", socket.LocalAddr(), err)
	}
	return nil
}

// program returns the number of a socket: 0 for the first. A load beyond the end of a packet gives 0.
func (s Steering) program() ([]bpf.RawInstruction, error) {
	mark := binary.BigEndian.Uint32(s.Mark[:])
	marked, other := uint32(1), uint32(0)
	if s.MarkedFirst {
		marked, other = 0, 1
	}
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: 0x40, SkipTrue: 1}, // QUIC
		bpf.RetConstant{Val: 1},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: 0x80, SkipTrue: 2}, // long header: flags, version, length, id
		bpf.LoadAbsolute{Off: 1, Size: 4},
		bpf.Jump{Skip: 1},
		bpf.LoadAbsolute{Off: 6, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: mark, SkipFalse: 1},
		bpf.RetConstant{Val: marked},
		bpf.RetConstant{Val: other},
	})
}

func rawOf(c net.PacketConn) (syscall.RawConn, error) {
	f, ok := c.(filer)
	if !ok {
		return nil, fmt.Errorf("%T has no descriptor", c)
	}
	return f.SyscallConn()
}

func reuse(c syscall.RawConn, on int) error {
	var serr error
	err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, on) })
	return errors.Join(err, serr)
}
