// Package cgi lets a WASI command answer a request as a program of CGI/1.1 (RFC 3875): the request is in
// its environment, its body on standard input, and the response is what it prints. Standard error goes to
// the function's log.
//
// Both bodies stream. What the program has printed is held back a little, since a short response gets a
// Content-Length, and leaves when there is more, or when the program waits: for input, or in a sleep
// (Idle). Redirects are left to the client also where the RFC lets the server follow them ("local
// redirect"): what a path leads to is decided by the gateway's routes, which a function does not know,
// and a client that sees the new path can act on it, keep it, and ends loops.
//
// There are no "non-parsed header" programs, no command line made from the query (section 4.4, of which
// nothing good has come), and no PATH_TRANSLATED, since no path is one of the machine's.
//
// The package knows nothing of WASI's functions: it gives the values for them (Env, Stdin, Stdout,
// Stderr) and calls "_start" (Serve). It owns no goroutine.
package cgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// Start is the export that a program is.
const Start = "_start"

// Call is one request and the state that the ABI keeps for it. It belongs to the goroutine that runs the
// guest.
type Call struct {
	*abi.Exchange
	head   header
	unsent bool // there is something that Idle would send
	stderr stderr
}

// New returns the state of a request.
func New(x *abi.Exchange) *Call {
	return &Call{Exchange: x, head: header{answer: x.Answer, limit: x.Limits.HeaderBytes + 4*x.Limits.Headers}, stderr: stderr{log: x.Log.Stream(slog.LevelWarn)}}
}

// Stdin returns the body of the request. A read first sends what the guest has written: the client may
// wait for it before it sends more. What goes wrong on the way from the client ends the guest's call.
func (c *Call) Stdin() io.Reader { return stdin{c} }

// Stdout returns where the guest writes its response to. What is wrong with it ends the guest's call.
func (c *Call) Stdout() io.Writer { return stdout{c} }

// Stderr returns where the guest writes its log to.
func (c *Call) Stderr() io.Writer { return &c.stderr }

// Idle is to be called when the guest begins to wait: what it has written so far leaves.
func (c *Call) Idle() {
	if c.unsent {
		c.unsent = false
		c.Must(c.Answer.Flush())
	}
}

type stdin struct{ call *Call }

func (r stdin) Read(p []byte) (int, error) {
	r.call.Idle()
	body := r.call.Request.Body
	if body == nil {
		return 0, io.EOF
	}
	n, err := body.Read(p)
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		r.call.Fail(fmt.Errorf("read the request: %w", err))
	}
	return n, err
}

type stdout struct{ call *Call }

func (w stdout) Write(p []byte) (int, error) {
	c, n := w.call, len(p)
	if !c.head.done {
		used, err := c.head.feed(p)
		c.Must(err)
		p = p[used:]
		c.unsent = c.head.done
	}
	if len(p) > 0 {
		c.Must(c.Answer.Write(p))
		c.unsent = true
	}
	return n, nil
}

// stderr keeps the last line, which often says why a program ends.
type stderr struct {
	log   io.Writer
	line  []byte
	ended bool // the line is complete, the next byte begins another
}

const maxLast = 200

func (w *stderr) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, newline := bytes.Cut(rest, []byte{'\n'})
		if len(part) > 0 {
			if w.ended {
				w.line, w.ended = w.line[:0], false
			}
			w.line = append(w.line, part[:min(len(part), maxLast-len(w.line))]...)
		}
		w.ended = w.ended || newline
		rest = after
	}
	return w.log.Write(p)
}

// Serve lets the program answer: it calls "_start" and judges how that ended. The answer is complete,
// but for Finish, when it returns nil.
//
// Errors are the engine's, what the exchange has recorded, or a *abi.GuestError that is not recorded, for
// a program that ended but did not answer: with code 0 before it wrote anything (NoResponse) or within
// the header (BadResponse), or with another code at any time (Trap). In the last case the answer may look
// complete: it is not to be trusted, and has to be replaced by an error, or cut if it has left in part.
func (c *Call) Serve(ctx context.Context, start api.Function) error {
	c.Phase = abi.Requesting
	_, err := start.Call(ctx)
	var exit *sys.ExitError
	if c.Err() != nil || err != nil && !errors.As(err, &exit) {
		return err
	}
	switch {
	case exit != nil && exit.ExitCode() != 0:
		return &abi.GuestError{Kind: abi.Trap, Detail: fmt.Sprintf("it exited with code %d", exit.ExitCode()) + c.said()}
	case c.head.done:
		return nil
	case c.head.size == 0:
		return &abi.GuestError{Kind: abi.NoResponse, Detail: "it ended and wrote nothing; a response begins with a header, like \"Content-Type: text/plain\", and an empty line" + c.said()}
	}
	return &abi.GuestError{Kind: abi.BadResponse, Detail: "it ended within the header of its response; an empty line ends a header" + c.said()}
}

// said is what the program said last.
func (c *Call) said() string {
	c.Log.Close() // the last line may have no end
	if crash := c.Log.Crash(); crash != "" {
		return fmt.Sprintf(" (%s)", crash[:min(len(crash), maxLast)])
	}
	if len(c.stderr.line) > 0 {
		return fmt.Sprintf(" (%q)", c.stderr.line)
	}
	return ""
}
