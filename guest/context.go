package guest

import (
	"context"
	"sync"
	"time"

	"github.com/perigee-edge/perigee/guest/internal/host"
)

// requestContext is the context of a request, with its deadline if that can be told. Few handlers ask it
// anything, so what answers is made when one does.
type requestContext struct {
	mu     sync.Mutex // guards all below
	inner  context.Context
	cancel context.CancelFunc
	ended  bool
}

// ask returns the context that knows.
func (c *requestContext) ask() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner != nil {
		return c.inner
	}
	c.inner, c.cancel = context.WithCancel(context.Background())
	if c.ended {
		c.cancel()
	} else if host.Deadline != nil {
		if left := host.Deadline(); left >= 0 {
			c.inner, c.cancel = context.WithTimeout(c.inner, time.Duration(left))
		}
	}
	return c.inner
}

// end cancels the context.
func (c *requestContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended = true; c.cancel != nil {
		c.cancel()
	}
}

// Deadline is the end of the function's time for the request.
func (c *requestContext) Deadline() (time.Time, bool) { return c.ask().Deadline() }

// Done is closed when the handler has returned, or the time is over.
func (c *requestContext) Done() <-chan struct{} { return c.ask().Done() }

// Err says which of the two it was.
func (c *requestContext) Err() error { return c.ask().Err() }

// Value returns nothing of use: a request has no values of its own.
func (c *requestContext) Value(key any) any { return c.ask().Value(key) }
