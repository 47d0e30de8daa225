package fleet

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

// Member is one node of a fleet, running or not. Its methods are safe for concurrent use, and speak
// of the node's life that began last.
type Member struct {
	Dir    node.Dir
	region perigee.Region
	life   atomic.Pointer[life]
}

// life is a node from a start to its end.
type life struct {
	node   *node.Node
	socket net.PacketConn
	https  string
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
	err    error         // what Run returned; read after done
	killed atomic.Bool   // its failure was asked for
}

// end waits until the node has stopped and returns why, unless it was killed.
func (l *life) end() error {
	<-l.done
	if l.killed.Load() {
		return nil
	}
	return l.err
}

// ID returns the node's name.
func (m *Member) ID() perigee.NodeID { return m.life.Load().node.ID() }

// Region returns the region that the node is in.
func (m *Member) Region() perigee.Region { return m.region }

// HTTPS returns the address of the node's HTTPS listener.
func (m *Member) HTTPS() string { return m.life.Load().https }

// Node returns the running node, or the one that ran last.
func (m *Member) Node() *node.Node { return m.life.Load().node }

// View returns what the node believes now.
func (m *Member) View() *perigee.View { return m.Node().View() }

// Client returns a client of the node's admin socket.
func (m *Member) Client() *node.Client { return m.Node().Client() }

// Genesis returns the cluster's first record, decoded and as it is signed.
func (m *Member) Genesis() (*record.Genesis, []byte) { return m.Node().Genesis() }

// Running reports whether the node runs.
func (m *Member) Running() bool {
	select {
	case <-m.life.Load().done:
		return false
	default:
		return true
	}
}

// Stop drains and stops the node, as SIGTERM does. It returns what the node failed with, if it did.
func (m *Member) Stop() error {
	l := m.life.Load()
	l.cancel()
	return l.end()
}

// Kill ends the node without a word to anybody, as a power cut does for its peers: its socket is gone
// before it knows. What it has on disk is what it has acknowledged.
func (m *Member) Kill() error {
	l := m.life.Load()
	l.killed.Store(true)
	if err := l.socket.Close(); err != nil {
		return err
	}
	return l.end()
}

// Wait waits until the node has ended by itself and returns why.
func (m *Member) Wait(ctx context.Context) error {
	l := m.life.Load()
	select {
	case <-l.done:
		l.killed.Store(true) // whoever waited knows
		return l.err
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", m.ID(), context.Cause(ctx))
	}
}

// waitUp waits until the admin socket answers.
func (m *Member) waitUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if _, err := m.Client().Status(ctx); err == nil {
			return nil
		}
		select {
		case <-m.life.Load().done:
			return fmt.Errorf("%s ended: %w", m.ID(), m.life.Load().err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer after %v", m.ID(), readyTimeout)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Restart starts a stopped member again from its directory, on the same ports, or on another mesh
// port if its own was taken meanwhile.
func (f *Fleet) Restart(ctx context.Context, m *Member) error {
	if m.Running() {
		return fmt.Errorf("restart %s: it runs", m.ID())
	}
	socket, err := f.socket(m.region, m.life.Load().socket.LocalAddr().String())
	if err != nil {
		socket, err = f.socket(m.region, anyPort)
	}
	if err != nil {
		return err
	}
	if err := f.run(m, socket, m.HTTPS()); err != nil {
		return err
	}
	return m.waitUp(ctx)
}
