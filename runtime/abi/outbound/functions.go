package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// Module is the name of the import module.
const Module = "perigee_http"

// hasBody is the flag of send that says that a body follows.
const hasBody = 1

// function is one import of the ABI. Its arguments are on the stack, its result replaces the first.
type function struct {
	name, sig string // signature: "iiiI:i" is (i32, i32, i32, i64) -> i32
	run       func(c *Call, ctx context.Context, mod api.Module, stack []uint64)
}

var functions = []function{
	{"send", "iiiI:i", (*Call).send},
	{"write", "iii:i", (*Call).write},
	{"finish", "i:i", (*Call).finish},
	{"head", "iii:i", (*Call).head},
	{"read", "iii:i", (*Call).read},
	{"trailers", "iii:i", (*Call).trailers},
	{"close", "i:", (*Call).close},
	{"error", "ii:i", (*Call).error},
	{"deadline", ":I", (*Call).deadline},
}

// Signatures returns the functions that a guest may import from Module, each with its signature written
// as "iiiI:i" for (i32, i32, i32, i64) -> i32.
func Signatures() map[string]string {
	out := make(map[string]string, len(functions))
	for _, f := range functions {
		out[f.name] = f.sig
	}
	return out
}

// Instantiate makes the host module in a runtime. Once is enough for all guests.
func Instantiate(ctx context.Context, r wazero.Runtime) error {
	b := r.NewHostModuleBuilder(Module)
	for _, f := range functions {
		params, results, _ := strings.Cut(f.sig, ":")
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			c := ctx.Value(key{}).(*Call)
			if ctx.Err() != nil { // the request is over
				c.Fail(context.Cause(ctx))
			}
			f.run(c, ctx, mod, stack)
		}), valueTypes(params), valueTypes(results)).Export(f.name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("instantiate %s: %w", Module, err)
	}
	return nil
}

func valueTypes(s string) []api.ValueType {
	out := make([]api.ValueType, len(s))
	for i := range s {
		out[i] = api.ValueTypeI32
		if s[i] == 'I' {
			out[i] = api.ValueTypeI64
		}
	}
	return out
}

func (c *Call) send(ctx context.Context, mod api.Module, s []uint64) {
	text := c.ReadString(mod, uint32(s[0]), uint32(s[1]))
	flags, timeout := uint32(s[2]), int64(s[3])
	handle, code := c.open(ctx, text, flags&hasBody != 0, timeout)
	if s[0] = uint64(handle); code != 0 {
		s[0] = api.EncodeI32(code)
	}
}

// open starts an exchange. It returns its handle, or an error for the guest.
func (c *Call) open(ctx context.Context, text string, hasBody bool, timeout int64) (handle uint32, code int32) {
	switch {
	case c.Phase == abi.Starting:
		c.Trap("send was called in a start function: there is no request yet")
	case c.sender == nil:
		return 0, c.code(notAllowed{})
	case len(c.exchanges) >= c.Limits.Open:
		return 0, c.code(errLimit(fmt.Sprintf("%d exchanges are open: close some", len(c.exchanges))))
	case int(c.sent) >= c.Limits.Total:
		return 0, c.code(errLimit(fmt.Sprintf("one request makes at most %d exchanges", c.Limits.Total)))
	}
	r, length, err := parseHead(text, c.Exchange.Limits.Headers)
	if err != nil {
		c.code(err)
		return 0, Malformed
	}
	var pw *io.PipeWriter
	if hasBody && length != 0 {
		r.Body, pw = io.Pipe()
		r.ContentLength = length
	}
	cancel := context.CancelFunc(nil)
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(timeout))
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	if c.exchanges == nil {
		c.exchanges = map[uint32]*exchange{}
	}
	c.sent++
	c.exchanges[c.sent] = start(ctx, cancel, c.sender, r, pw)
	return c.sent, 0
}

// exchange finds what a handle names.
func (c *Call) exchange(what string, handle uint64) *exchange {
	x := c.exchanges[uint32(handle)]
	if x == nil {
		c.Trap("%s names the exchange %d, which is not open", what, uint32(handle))
	}
	return x
}

// over ends the guest if its request has ended meanwhile.
func (c *Call) over(ctx context.Context) {
	if ctx.Err() != nil {
		c.Fail(context.Cause(ctx))
	}
}

func (c *Call) write(ctx context.Context, mod api.Module, s []uint64) {
	x, p := c.exchange("write", s[0]), c.Read(mod, uint32(s[1]), uint32(s[2]))
	if x.body == nil {
		s[0] = api.EncodeI32(c.code(errors.New("the request has no body, or it has ended")))
		return
	}
	err := c.count(len(p))
	if err == nil {
		c.Await(func() { _, err = x.body.Write(p) })
		c.over(ctx)
	}
	if s[0] = uint64(len(p)); err != nil {
		s[0] = api.EncodeI32(c.code(fmt.Errorf("send the request's body: %w", err)))
	}
}

func (c *Call) finish(_ context.Context, _ api.Module, s []uint64) {
	x := c.exchange("finish", s[0])
	s[0] = 0
	if x.body != nil {
		x.body.Close()
		x.body = nil
	}
}

func (c *Call) head(ctx context.Context, mod api.Module, s []uint64) {
	x := c.exchange("head", s[0])
	if a := c.Answer; a != nil && a.Waits() { // the client need not wait for this
		c.Must(a.Flush())
	}
	c.Await(func() { // ctx is the exchange's ancestor, so that its end is the end of this
		<-x.done
	})
	c.over(ctx)
	if x.err != nil {
		s[0] = api.EncodeI32(c.code(x.err))
		return
	}
	if x.head == "" {
		x.head = formatHead(x.resp)
	}
	s[0] = c.reply(mod, s[1], s[2], x.head)
}

func (c *Call) read(ctx context.Context, mod api.Module, s []uint64) {
	x, limit := c.exchange("read", s[0]), uint32(s[2])
	if limit == 0 {
		c.Trap("read with a limit of 0")
	}
	buf := c.Read(mod, uint32(s[1]), min(limit, math.MaxInt32))
	n, err := 0, error(nil)
	c.Await(func() {
		if <-x.done; x.err != nil {
			err = x.err
			return
		}
		for n == 0 && err == nil {
			n, err = x.resp.Body.Read(buf)
		}
	})
	c.over(ctx)
	if n > 0 {
		err = nil // it comes again
	}
	if err == nil {
		err = c.count(n)
	}
	switch {
	case errors.Is(err, io.EOF):
		x.ended = true
		s[0] = 0
	case err != nil:
		s[0] = api.EncodeI32(c.code(err))
	default:
		s[0] = uint64(n)
	}
}

func (c *Call) trailers(_ context.Context, mod api.Module, s []uint64) {
	x := c.exchange("trailers", s[0])
	if !x.ended {
		c.Trap("trailers was called before the end of the body")
	}
	var b strings.Builder
	formatFields(&b, x.resp.Trailer)
	s[0] = c.reply(mod, s[1], s[2], b.String())
}

func (c *Call) close(_ context.Context, _ api.Module, s []uint64) {
	c.exchange("close", s[0])
	c.Await(func() { c.end(uint32(s[0])) })
}

func (c *Call) error(_ context.Context, mod api.Module, s []uint64) {
	s[0] = c.reply(mod, s[0], s[1], c.last)
}

func (c *Call) deadline(ctx context.Context, _ api.Module, s []uint64) {
	left := int64(-1)
	if end, ok := ctx.Deadline(); ok {
		left = max(int64(time.Until(end)), 0)
	}
	s[0] = uint64(left)
}

// reply writes b at ptr if it is not longer than limit, and returns its length either way.
func (c *Call) reply(mod api.Module, ptr, limit uint64, b string) uint64 {
	if len(b) <= int(uint32(limit)) {
		c.Write(mod, uint32(ptr), []byte(b))
	}
	return uint64(len(b))
}
