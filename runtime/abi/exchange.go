// Package abi holds what the guest ABIs share: one request on its way through a guest (Exchange), the
// response as the guest says it and as it leaves (Answer), the guest's log (Log), and the typed errors
// of misbehaving guests (GuestError).
//
// This is the guest's boundary. What a guest says is bounded here in bytes and counts, and cleaned here
// of what only the gateway may say: lengths, hop-by-hop headers, the Perigee-* names. The packages
// below this one (httpwasm, wasip1) know one ABI each and call these types; package runtime makes an
// Exchange for each request.
//
// The package owns no goroutine. All types belong to the goroutine that runs the request.
package abi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/tetratelabs/wazero/api"
)

// Limits bounds what one exchange may hold or send. All fields are needed.
type Limits struct {
	Response    int64 // bytes of a response body
	Buffer      int64 // bytes of a body that is kept whole, for guests that ask to see it
	Headers     int   // header fields of a message
	HeaderBytes int   // bytes of their names and values
}

// Phase is how far an exchange has come.
type Phase int

// The phases, in order.
const (
	Starting   Phase = iota // the instance runs its start functions: there is no request yet
	Requesting              // the guest handles the request
	Responding              // the next handler has run, the guest sees the response
)

// Exchange is one request on its way through a guest.
type Exchange struct {
	Request *http.Request // a copy that the guest may change before the next handler sees it
	Answer  *Answer
	Log     *Log
	Limits  Limits
	Phase   Phase
	Await   func(f func()) // runs f, in which a host function waits for the world outside

	err error // why it was ended
}

// errEnded unwinds a guest's call. The cause is in the exchange.
var errEnded = errors.New("exchange ended")

// Note records why the exchange ends. The first cause is kept.
func (x *Exchange) Note(err error) {
	if x.err == nil {
		x.err = err
	}
}

// Fail is Note for host functions: it ends the guest's call and does not return.
func (x *Exchange) Fail(err error) {
	x.Note(err)
	panic(errEnded)
}

// Trap is Fail for a guest that breaks the rules of its ABI.
func (x *Exchange) Trap(format string, args ...any) {
	x.Fail(&GuestError{Kind: Trap, Detail: fmt.Sprintf(format, args...)})
}

// Must is Fail when there is an error.
func (x *Exchange) Must(err error) {
	if err != nil {
		x.Fail(err)
	}
}

// Err returns why the exchange ended, if it was not the engine that ended it.
func (x *Exchange) Err() error { return x.err }

// Read returns n bytes of the guest's memory. They are valid until the guest runs again.
func (x *Exchange) Read(mod api.Module, ptr, n uint32) []byte {
	if n == 0 {
		return nil
	}
	b, ok := mod.Memory().Read(ptr, n)
	if !ok {
		x.Trap("a call names %d bytes at %d, and the memory has %d", n, ptr, mod.Memory().Size())
	}
	return b
}

// ReadString returns a copy of n bytes of the guest's memory, of which it accepts at most what the
// limit on header bytes allows.
func (x *Exchange) ReadString(mod api.Module, ptr, n uint32) string {
	if int64(n) > int64(x.Limits.HeaderBytes) {
		x.Fail(&GuestError{Kind: ResponseTooLarge, Detail: fmt.Sprintf("a text of %d bytes; at most %d", n, x.Limits.HeaderBytes)})
	}
	return string(x.Read(mod, ptr, n))
}

// Write copies b into the guest's memory.
func (x *Exchange) Write(mod api.Module, ptr uint32, b []byte) {
	copy(x.Read(mod, ptr, uint32(len(b))), b)
}
