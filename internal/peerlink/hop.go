package peerlink

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// suspectGrace is how long a connection that went silent has to show a packet before it is closed.
const suspectGrace = time.Second

// RoundTripHop sends a request to another node's hop handler and returns the head of its response.
//
// Its outcomes:
//  1. A response. The worker accepted the request and runs it. Closing the body before its end
//     resets the exchange and cancels the handler.
//  2. A *perigee.HopError. Refused by the worker's own word, or unreachable: no complete request was
//     sent. In both cases nothing ran. Silent: the request was sent, but no word came within
//     max(Config.AcceptFloor, 3 round trips), or the connection ended first. The worker may then
//     have started a request that has no body; one that has a body has not seen any of it.
//  3. A *StreamError. The exchange failed after the request was accepted.
//  4. The cause of r's context, or an error about r itself.
//
// The request's body is read and closed only after the worker accepted, and with "Expect: 100-continue" read
// only once the handler reads it. Before that every error
// leaves it untouched, so that it may be sent elsewhere. Informational responses of the handler are told to
// the Got1xxResponse of r's httptrace.ClientTrace. If the context has a deadline, the worker's
// context gets it too.
func (l *Link) RoundTripHop(id perigee.NodeID, r *http.Request) (*http.Response, error) {
	x, err := l.startHop(id, r)
	l.met.hops[outcomeOf(r.Context(), err)].Inc()
	if err != nil {
		return nil, err
	}
	return x.response(r)
}

func outcomeOf(ctx context.Context, err error) string {
	var he *perigee.HopError
	switch {
	case err == nil:
		return hopAccepted
	case errors.As(err, &he):
		return string(he.Code)
	case ctx.Err() != nil:
		return hopCanceled
	}
	return hopFailed
}

type acceptedKey struct{}

// WithAccepted returns a context for a request of RoundTripHop. f is called, once, when the worker has said
// that it accepts the request, with the load that it reports; RoundTripHop returns later, with the head
// of the response. f must not block.
func WithAccepted(ctx context.Context, f func(perigee.Load)) context.Context {
	return context.WithValue(ctx, acceptedKey{}, f)
}

// startHop sends the request's head and waits for the worker to accept it.
func (l *Link) startHop(id perigee.NodeID, r *http.Request) (*exchange, error) {
	ctx := r.Context()
	flags := uint64(flagAnswerFirst)
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") && hasBody(r) {
		flags |= flagHold
	}
	head, err := newRequestHead(r, flags)
	if err != nil {
		return nil, err
	}
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	p := l.pool(poolKey{proto: protoPeer, node: id})
	var last error
	for range 3 { // a pooled connection may have died unnoticed
		c, err := l.get(ctx, p)
		if err != nil {
			return nil, unreachable(ctx, id, err)
		}
		seen, sent, wait := c.packets(), time.Now(), max(l.cfg.AcceptFloor, 3*c.rtt())
		x, err := startExchange(ctx, c, head, sent.Add(wait))
		switch {
		case err == nil:
			a, err := x.answer(sent.Add(wait), wait)
			l.met.accept.Observe(time.Since(sent).Seconds())
			if isMoved(streamErr(err)) {
				c.retire()
				x.fail(err)
				last = streamErr(err)
				continue
			}
			if err != nil {
				return nil, l.noAnswer(ctx, x, id, seen, err)
			}
			if a.refused {
				return nil, refusal(x, id, a)
			}
			if f, ok := ctx.Value(acceptedKey{}).(func(perigee.Load)); ok {
				f(a.load)
			}
			if x.hold(r); flags&flagHold == 0 || !a.holds {
				x.goOn()
			}
			return x, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.suspect(c, seen)
			return nil, &perigee.HopError{Node: id, Code: perigee.RefusedSilent, Err: errors.New("the connection takes no data")}
		case errors.As(err, new(*quic.StreamLimitReachedError)):
			return nil, &perigee.HopError{Node: id, Code: perigee.RefusedOverloaded, Err: err}
		case isMoved(streamErr(err)):
			c.retire()
		case !isConnErr(err):
			return nil, unreachable(ctx, id, streamErr(err))
		}
		last = streamErr(err)
	}
	return nil, unreachable(ctx, id, fmt.Errorf("its connections end as soon as they open: %w", last))
}

func unreachable(ctx context.Context, id perigee.NodeID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &perigee.HopError{Node: id, Code: perigee.RefusedUnreachable, Err: err}
}

// refusal ends an exchange whose worker answered refused.
func refusal(x *exchange, id perigee.NodeID, a answer) error {
	x.fr.release()
	x.abort(ResetNone)
	he := &perigee.HopError{Node: id, Limit: a.limit}
	if a.load != (perigee.Load{}) {
		he.Load = &a.load
	}
	var known bool
	if he.Code, known = refuseCode(a.code); !known { // of a later release
		he.Code, he.Err = perigee.RefusedOverloaded, &StreamError{Code: a.code, Remote: true}
	}
	return he
}

// noAnswer ends an exchange whose worker answered neither accepted nor refused.
func (l *Link) noAnswer(ctx context.Context, x *exchange, id perigee.NodeID, seen uint64, err error) error {
	err = x.fail(err)
	if ctx.Err() != nil {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		l.suspect(x.conn, seen)
		return &perigee.HopError{Node: id, Code: perigee.RefusedSilent}
	}
	var se *StreamError
	if !errors.As(err, &se) {
		return err
	}
	if code, ok := refuseCode(se.Code); ok {
		return &perigee.HopError{Node: id, Code: code}
	}
	headRefused := se.Remote && (se.Code == ResetProtocol || se.Code == ResetVersion || se.Code == ResetTimeout)
	switch {
	case headRefused, errors.Is(err, ErrIdentityRefused): // no handler saw the head
		return &perigee.HopError{Node: id, Code: perigee.RefusedUnreachable, Err: se}
	case se.Code == ResetLost:
		return &perigee.HopError{Node: id, Code: perigee.RefusedSilent, Err: se}
	}
	return err
}

// suspect takes a connection out of use if no packet at all has come on it since seen was counted,
// so that the next request dials anew, and closes it if none comes within suspectGrace: what else
// runs on it then fails long before the idle timeout. A worker that merely did not answer in time
// keeps acknowledging packets, and its connection stays.
func (l *Link) suspect(c *conn, seen uint64) {
	if c.packets() != seen || !c.retire() {
		return
	}
	l.log.Info("peer is silent", "peer", string(c.claims.ID))
	l.closeIfSilent(c, seen, suspectGrace)
}

// closeIfSilent closes a connection on which no packet came since seen was counted, after a while.
func (l *Link) closeIfSilent(c *conn, seen uint64, after time.Duration) {
	l.spawn(func() {
		grace := time.NewTimer(after)
		defer grace.Stop()
		select {
		case <-grace.C:
			if c.packets() == seen {
				c.close(closeSuspected, "no packet arrived")
			}
		case <-c.q.Context().Done():
		}
	})
}
