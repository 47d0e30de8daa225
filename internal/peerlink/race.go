package peerlink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"
)

// way is what carries the packets of a connection.
type way string

const (
	overUDP way = "udp"
	overTCP way = "tcp"
)

// attempt opens a connection on one way.
type attempt func(context.Context) (*quic.Conn, error)

// race tries a way, and the other one as well if the first has not succeeded after a head start, or failed. The
// first connection wins; a second one is closed. If the other side answered on one way and refused, its word
// counts at once: it would say the same on the other.
func race(ctx context.Context, first, second way, attempts map[way]attempt, headStart time.Duration) (*quic.Conn, way, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		on  way
		q   *quic.Conn
		err error
	}
	results := make(chan result, len(attempts))
	try := func(on way) {
		go func() {
			q, err := attempts[on](ctx)
			results <- result{on, q, err}
		}()
	}
	try(first)
	running := 1
	late := time.NewTimer(headStart)
	defer late.Stop()
	var won result
	failed := map[way]error{}
	for begun := false; running > 0; {
		select {
		case <-late.C:
		case r := <-results:
			running--
			switch {
			case r.err == nil && won.q == nil:
				won = r
			case r.err == nil:
				_ = r.q.CloseWithError(closeUnused, "the other way was faster")
			default:
				failed[r.on] = r.err
			}
			if won.q != nil || answered(r.err) {
				cancel()
				begun = true
			}
		}
		if !begun {
			begun = true
			running++
			try(second)
		}
	}
	if won.q != nil {
		return won.q, won.on, nil
	}
	for _, err := range failed {
		if answered(err) {
			return nil, "", err
		}
	}
	if failed[overTCP] == nil {
		return nil, "", failed[overUDP]
	}
	return nil, "", fmt.Errorf("%w; and over TCP: %w", failed[overUDP], failed[overTCP])
}

// answered reports whether a failure to connect is the other side's word, or this side's about its identity,
// rather than silence on the way.
func answered(err error) bool {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	return errors.As(err, &te) || errors.As(err, &ae)
}
