package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// Sender sends the requests of one function. It decides where they may go. An error that has a method
// Denied() bool or Limited() bool, or Timeout() bool, which returns true, is told to the guest as such.
// RoundTrip must end with the request's context.
type Sender = http.RoundTripper

// Limits bounds the exchanges of one request. NewCall sets 16, 200 and 1 GiB.
type Limits struct {
	Open  int   // at once
	Total int   // together
	Bytes int64 // of all bodies together, in both directions
}

func defaultLimits() Limits { return Limits{Open: 16, Total: 200, Bytes: 1 << 30} }

// The errors that functions return to the guest.
const (
	Denied    = -1 // the function may not go there; the text says why
	Malformed = -2 // the head of the request is not valid
	Limited   = -3 // too much is open, or was sent
	Failed    = -4 // the network, or the other side
	TimedOut  = -5 // the exchange's own timeout, or one of the host's
)

// Call is one request and what it has sent. It belongs to the goroutine that runs the guest.
type Call struct {
	*abi.Exchange
	Limits Limits

	sender    Sender
	exchanges map[uint32]*exchange
	sent      uint32 // exchanges so far; the last handle
	bytes     int64
	last      string // text of the last error
}

// NewCall returns the state of a request of a function that sends through s. With nil every request is
// denied, and the text says how to change that.
func NewCall(x *abi.Exchange, s Sender) *Call {
	return &Call{Exchange: x, Limits: defaultLimits(), sender: s}
}

type key struct{}

// Context returns a context by which the host functions find the call.
func (c *Call) Context(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, c) }

// Close ends what is open and waits for its goroutines. The call can't be used after it.
func (c *Call) Close() {
	for handle := range c.exchanges {
		c.end(handle)
	}
}

func (c *Call) end(handle uint32) {
	x := c.exchanges[handle]
	delete(c.exchanges, handle)
	x.close()
}

// notAllowed is the denial of a function whose manifest lists no origin.
type notAllowed struct{}

func (notAllowed) Error() string {
	return "outbound is not allowed: list the origin under outbound in perigee.toml"
}
func (notAllowed) Denied() bool { return true }

// errLimit is a limit of this package.
type errLimit string

func (e errLimit) Error() string { return "outbound limit: " + string(e) }
func (errLimit) Limited() bool   { return true }

// code notes an error for the guest and returns its number.
func (c *Call) code(err error) int32 {
	c.last = err.Error()
	var d interface{ Denied() bool }
	var l interface{ Limited() bool }
	var t interface{ Timeout() bool }
	switch {
	case errors.As(err, &d) && d.Denied():
		return Denied
	case errors.As(err, &l) && l.Limited():
		return Limited
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &t) && t.Timeout():
		return TimedOut
	}
	return Failed
}

// count adds to the bytes of all bodies.
func (c *Call) count(n int) error {
	if c.bytes += int64(n); c.bytes > c.Limits.Bytes {
		return errLimit(fmt.Sprintf("more than %d bytes in one request", c.Limits.Bytes))
	}
	return nil
}

// exchange is one request of the guest and its response.
type exchange struct {
	cancel context.CancelFunc
	stop   func() bool    // ends the watch that ends body with the context
	body   *io.PipeWriter // nil = the request has none, or it has ended
	done   chan struct{}  // closed when the goroutine has ended; resp and err are set then

	resp  *http.Response
	err   error
	head  string // of the response; "" = not asked for yet
	ended bool   // its body was read to the end
}

// start sends a request in a goroutine.
func start(ctx context.Context, cancel context.CancelFunc, s Sender, r *http.Request, body *io.PipeWriter) *exchange {
	x := &exchange{cancel: cancel, body: body, done: make(chan struct{}), stop: func() bool { return true }}
	r = r.WithContext(ctx)
	if body != nil {
		x.stop = context.AfterFunc(ctx, func() { body.CloseWithError(context.Cause(ctx)) })
	}
	go func() {
		defer close(x.done)
		x.resp, x.err = s.RoundTrip(r)
		if x.err != nil && r.Body != nil {
			r.Body.Close() // ends a write that waits
		}
	}()
	return x
}

// close ends the exchange and waits for its goroutine.
func (x *exchange) close() {
	x.stop()
	x.cancel()
	if x.body != nil {
		x.body.CloseWithError(context.Canceled)
	}
	<-x.done
	if x.resp != nil {
		x.resp.Body.Close()
	}
}
