// Package httpwasm is the host side of the http-wasm handler ABI: nineteen functions in the import module
// "http_handler" by which a guest reads a request, changes it, lets the next handler run and reads or
// writes the response (https://http-wasm.io/http-handler-abi).
//
// A second import module, "perigee_handler", has one function that tells of a whole request at once
// (request_head): it saves a guest that wants all of it a dozen calls.
//
// A guest exports memory, handle_request () -> i64 and handle_response (i32, i32). The low half of
// what handle_request returns says whether the next handler is to run; the high half is handed to
// handle_response afterwards, in the same instance.
//
// The functions find their request in the context of the call (Call.Context), so one instance of the
// host module serves all guests. The package owns no goroutine.
package httpwasm

import (
	"context"
	"fmt"
	"net/http"

	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// The names of the ABI.
const (
	Module         = "http_handler"
	HandleRequest  = "handle_request"
	HandleResponse = "handle_response"
)

// The features that a guest can enable. Trailers need no work of the host.
const (
	bufferRequest  = 1
	bufferResponse = 2
	trailers       = 4

	supported = bufferRequest | bufferResponse | trailers
)

// Call is one request and the state that the ABI keeps for it.
type Call struct {
	*abi.Exchange
	features uint32

	requestHeader  abi.Fields
	requestTrailer abi.Fields
	headerCopied   bool
	trailerCopied  bool

	text        []byte // room for the request's head
	bodyRead    int64  // how much of the request body the guest has read
	readRequest []byte // what the guest has read of the request body, while that is buffered
	newRequest  []byte // what it wrote in its place
	replaced    bool   // it did write
	rewritten   bool   // it wrote the response body after next
	read        int    // how much of the kept response body it has read
}

// NewCall returns the state of a request.
func NewCall(x *abi.Exchange) *Call { return &Call{Exchange: x} }

type key struct{}

// Context returns a context by which the host functions find the call. It is needed from the
// instantiation on, since a guest may enable features when it starts.
func (c *Call) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, c)
}

// Features returns the features that the guest has enabled.
func (c *Call) Features() uint32 { return c.features }

// SetFeatures enables features that the guest had enabled before it was made an image.
func (c *Call) SetFeatures(f uint32) { c.features = f }

// Serve lets an instance, whose exports are found by export, answer the request: it calls handle_request, next if the guest says so, and
// then handle_response. The answer is complete, but for Finish, when it returns nil. Errors are the
// engine's, or what the exchange has recorded.
func (c *Call) Serve(ctx context.Context, export func(name string) api.Function, next http.Handler) error {
	c.Phase = abi.Requesting
	results, err := export(HandleRequest).Call(ctx)
	if err != nil {
		return err
	}
	if uint32(results[0]) == 0 {
		return nil
	}
	c.Phase = abi.Responding
	failed, err := c.next(ctx, next)
	if err != nil && failed == nil {
		c.Note(err)
		return err
	}
	isError := uint64(0)
	if failed != nil {
		isError = 1
	}
	_, err = export(HandleResponse).Call(ctx, results[0]>>32, isError)
	if failed != nil {
		panic(failed) // it was the next handler's
	}
	return err
}

// next runs the next handler. failed is the value it panicked with.
func (c *Call) next(ctx context.Context, next http.Handler) (failed any, err error) {
	defer func() { failed = recover() }()
	r := c.Request.WithContext(ctx)
	if c.headerCopied {
		r.Header = c.requestHeader.Map()
	}
	if c.trailerCopied {
		r.Trailer = c.requestTrailer.Map()
	}
	c.nextBody(r)
	w := c.Answer.Next()
	c.Await(func() { next.ServeHTTP(w, r) })
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("next handler: %w", err)
	}
	return nil, nil
}
