package peerlink

import (
	"sync"

	"github.com/quic-go/quic-go"
)

// credits gives back in batches what lets the peer of a connection open streams. Given back one by one, each
// costs a packet (MAX_STREAMS) and another that acknowledges it: half of the packets of a short exchange.
type credits struct {
	mu   sync.Mutex // guards held
	held []*quic.Stream
}

// creditBatch returns how many credits are given back at once under a limit of streams: a hundredth, 64 at most.
func creditBatch(limit int) int { return min(max(1, limit/100), 64) }

// end takes the credit of a stream with which this node is done, and gives back all when there are enough. Up to
// batch - 1 are kept, by which the limit told to the peer is higher (serverQUIC).
func (c *credits) end(st *quic.Stream, batch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, st)
	if len(c.held) < batch {
		return
	}
	for _, st := range c.held {
		st.ReleaseStreamCredit()
	}
	clear(c.held)
	c.held = c.held[:0]
}
