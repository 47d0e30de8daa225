package perigee

import "context"

// MaxDepth is how many functions may be called from one another before a call is taken for a loop.
const MaxDepth = 8

type callKey struct{}

// call is what is known of the request that a function sends.
type call struct {
	depth    int
	function string
}

// WithCall returns a context of a request that a function sends, the n-th in a chain of calls. The request
// of a client has the depth 0.
func WithCall(ctx context.Context, n int, function string) context.Context {
	return context.WithValue(ctx, callKey{}, call{n, function})
}

// DepthFrom returns how many functions were called from one another to make the request of a context.
func DepthFrom(ctx context.Context) int {
	c, _ := ctx.Value(callKey{}).(call)
	return c.depth
}

// CallerFrom returns the function that sends the request of a context; "" if it is a client's.
func CallerFrom(ctx context.Context) string {
	c, _ := ctx.Value(callKey{}).(call)
	return c.function
}
