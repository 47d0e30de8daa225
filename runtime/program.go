package runtime

import (
	"context"
	"net/http"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// program is how the host talks to the guests of one ABI.
type program struct {
	// start runs, in a new instance, what comes before the first request. What it leaves is kept as an
	// image, if that is possible, and not run again.
	start func(ctx context.Context, q *request) error
	// serve lets the guest answer.
	serve func(ctx context.Context, q *request, next http.Handler) error
}

// programs are the ABIs by their names in a Report.
var programs = map[string]program{
	ABIHTTPWasm: {startHandler, serveHandler},
}

// warmUp is the export by which a guest prepares, after its start, for its first request.
const warmUp = "perigee_warm_up"

func startHandler(ctx context.Context, q *request) error {
	call := httpwasm.NewCall(q.exchange)
	if err := q.callAll(call.Context(ctx), wasmbin.StartExport, "_initialize", "_start", warmUp); err != nil {
		return err
	}
	q.features = call.Features()
	return nil
}

func serveHandler(ctx context.Context, q *request, next http.Handler) error {
	call := httpwasm.NewCall(q.exchange)
	call.SetFeatures(q.features)
	return call.Serve(call.Context(ctx), q.instance.Function, next)
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
