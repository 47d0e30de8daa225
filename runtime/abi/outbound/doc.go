// Package outbound is the host side of perigee_http: nine functions in the import module "perigee_http" by
// which a guest of any language makes HTTP requests. docs/guest-abi.md describes it for authors of guests.
//
//	send     (head, head_len, flags: i32, timeout: i64) -> i32   starts an exchange: its handle, from 1, or an error
//	write    (handle, ptr, len: i32) -> i32                      sends a part of the request's body: len, or an error
//	finish   (handle: i32) -> i32                                ends the request's body: 0, or an error
//	head     (handle, ptr, limit: i32) -> i32                    waits for the response: length of its head, or an error
//	read     (handle, ptr, limit: i32) -> i32                    the next part of its body: length, 0 at the end, or an error
//	trailers (handle, ptr, limit: i32) -> i32                    after the end: length of the trailers
//	close    (handle: i32)                                       ends the exchange
//	error    (ptr, limit: i32) -> i32                            length of the text of the last error
//	deadline () -> i64                                           nanoseconds until the request ends; -1 = no limit
//
// head, trailers and error write their text if it is not longer than limit, and return its length either
// way. The head of a request is lines that end in "\n":
//
//	GET https://api.example.com/path?query
//	accept: application/json
//	content-length: 5
//
// a method, one space and an absolute URL; then fields, each a name, ":" and a value around which spaces
// and tabs don't count. The head of a response is the status, one space, the protocol ("200 HTTP/2.0") and
// then fields in the same form with names in lower case; trailers are only fields. Bit 0 of flags says that
// a body follows, by write and finish; content-length says how long it is, if it is known. timeout is for
// the whole exchange, in nanoseconds; 0 or less = as long as the request lasts.
//
// Errors are negative: Denied, Malformed, Limited, Failed, TimedOut. Calls that wait (write, finish, head,
// read) end with the guest's request, which then ends the guest. A handle that is not open, a limit of 0
// for read and calls out of their order trap. The host closes what is open when the request ends.
//
// The functions find their request in the context of the call (Call.Context), so one instance of the host
// module serves all guests. Each exchange has one goroutine, which ends before Call.Close returns. What a
// guest says is bounded here; where it may go, and how much it has open on the node, is decided by the
// Sender.
package outbound
