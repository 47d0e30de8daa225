package peerlink

import (
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// windowBudget bounds how far the receive windows of all connections may grow together. Each grant
// goes back when its connection ends. It is safe for concurrent use.
type windowBudget struct {
	left    atomic.Int64
	granted sync.Map // *quic.Conn -> *atomic.Int64
}

func newWindowBudget(n int64) *windowBudget {
	b := new(windowBudget)
	b.left.Store(n)
	return b
}

func (b *windowBudget) open(q *quic.Conn) { b.granted.Store(q, new(atomic.Int64)) }

// allow is quic.Config.AllowConnectionWindowIncrease.
func (b *windowBudget) allow(q *quic.Conn, delta uint64) bool {
	g, ok := b.granted.Load(q)
	if !ok || delta > maxConnWindow {
		return false // not registered yet, or no more
	}
	if b.left.Add(-int64(delta)) < 0 {
		b.left.Add(int64(delta))
		return false
	}
	g.(*atomic.Int64).Add(int64(delta))
	return true
}

func (b *windowBudget) close(q *quic.Conn) {
	if g, ok := b.granted.LoadAndDelete(q); ok {
		b.left.Add(g.(*atomic.Int64).Load())
	}
}
