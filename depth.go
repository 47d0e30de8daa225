package perigee

import "context"

// MaxDepth is how many functions may be called from one another before a call is taken for a loop.
const MaxDepth = 8

type depthKey struct{}

// WithDepth returns a context of a request that the n-th function in a chain of calls sends. The request
// of a client has the depth 0.
func WithDepth(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, depthKey{}, n)
}

// DepthFrom returns how many functions were called from one another to make the request of a context.
func DepthFrom(ctx context.Context) int {
	n, _ := ctx.Value(depthKey{}).(int)
	return n
}
