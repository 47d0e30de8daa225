package runtime

import (
	"context"
	"io"
	"net/http"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/cgi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// program is how the host talks to the guests of one ABI.
type program struct {
	// start runs, in a new instance, what comes before the first request. What it leaves is kept as an
	// image, if that is possible, and not run again.
	start func(ctx context.Context, q *request) error
	// serve lets the guest answer.
	serve func(ctx context.Context, q *request, next http.Handler) error
	// system changes what the guest sees of a machine; nil = nothing is changed.
	system func(q *request, c *wasip1.Config)
}

// programs are the ABIs by their names in a Report.
var programs = map[string]program{
	ABIHTTPWasm: {start: startHandler, serve: serveHandler},
	ABICGI:      {start: startCommand, serve: serveCommand, system: commandSystem},
}

// warmUp is the export by which a guest prepares, after its start, for its first request.
const warmUp = "perigee_warm_up"

func startHandler(ctx context.Context, q *request) error {
	call := httpwasm.NewCall(q.exchange)
	ctx = q.outbound.Context(ctx)
	if err := q.callAll(call.Context(ctx), wasmbin.StartExport, "_initialize", "_start", warmUp); err != nil {
		return err
	}
	q.features = call.Features()
	return nil
}

func serveHandler(ctx context.Context, q *request, next http.Handler) error {
	call := httpwasm.NewCall(q.exchange)
	call.SetFeatures(q.features)
	return call.Serve(q.outbound.Context(call.Context(ctx)), q.instance.Function, next)
}

// startCommand keeps a command as it is before its main function, which is the whole of a request.
func startCommand(ctx context.Context, q *request) error { return q.callAll(ctx, wasmbin.StartExport) }

func serveCommand(ctx context.Context, q *request, _ http.Handler) error {
	return q.command.Serve(q.outbound.Context(ctx), q.instance.Function(cgi.Start))
}

// commandSystem gives a command its request.
func commandSystem(q *request, c *wasip1.Config) {
	q.command = cgi.New(q.exchange)
	q.idle = q.command.Idle
	c.Env = q.command.Env(q.rev.env)
	c.Stdin = awaitReader{q.exchange, q.command.Stdin()}
	c.Stdout = awaitWriter{q.exchange, q.command.Stdout()}
	c.Stderr = q.command.Stderr()
}

// awaitReader is a reader that may wait for the world outside.
type awaitReader struct {
	exchange *abi.Exchange
	in       io.Reader
}

func (r awaitReader) Read(p []byte) (n int, err error) {
	r.exchange.Await(func() { n, err = r.in.Read(p) })
	return n, err
}

// awaitWriter is a writer that may.
type awaitWriter struct {
	exchange *abi.Exchange
	out      io.Writer
}

func (w awaitWriter) Write(p []byte) (n int, err error) {
	w.exchange.Await(func() { n, err = w.out.Write(p) })
	return n, err
}

// callAll calls those functions that the guest exports, in order.
func (q *request) callAll(ctx context.Context, names ...string) error {
	for _, name := range names {
		if f := q.instance.Function(name); f != nil {
			if _, err := f.Call(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
