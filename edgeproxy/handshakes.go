package edgeproxy

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"
)

// The most handshakes of QUIC that may be under way. Each holds some 50 KiB until it is done, or for handshakeTime after
// the last packet of its client, which need not be more than one.
const (
	unprovenMost     = 128 // of clients that have not proven their address: beyond, they must (Retry)
	unprovenPerHost  = 32  // of them from one client's address, which may be somebody else's
	handshakeMost    = 512 // of clients that have: beyond, they are refused
	handshakePerHost = 64
)

var errHandshakes = errors.New("too many handshakes are under way")

// handshakes counts those that are under way on one socket. Strangers can say any address, so what they begin takes
// nothing from those who have proven theirs: each kind has bounds of its own. It is safe for concurrent use.
type handshakes struct {
	unproven, proven *census
}

func newHandshakes() *handshakes {
	return &handshakes{newCensus(unprovenMost, unprovenPerHost), newCensus(handshakeMost, handshakePerHost)}
}

// crowded reports whether a client must prove its address before another handshake begins.
func (h *handshakes) crowded(client netip.Addr) bool { return !h.unproven.room(clientOf(client)) }

type handshakeKey struct{}

// begin counts a handshake until its context ends, or that is told to finished.
func (h *handshakes) begin(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
	kind, host := h.unproven, clientOf(addrOf(client.RemoteAddr))
	if client.AddrVerified {
		kind = h.proven
	}
	if !kind.enter() {
		return nil, errHandshakes
	}
	if !kind.enterHost(host) {
		kind.leave()
		return nil, errHandshakes
	}
	over := sync.OnceFunc(func() {
		kind.leaveHost(host)
		kind.leave()
	})
	context.AfterFunc(ctx, over)
	return context.WithValue(ctx, handshakeKey{}, over), nil
}

// finished is told of the context of each connection whose handshake is done.
func (h *handshakes) finished(ctx context.Context) { ctx.Value(handshakeKey{}).(func())() }
