// Package outbound lets a Perigee function make HTTP requests with net/http as it is. Import it for its
// effect:
//
//	import _ "github.com/perigee-edge/perigee/guest/outbound"
//
// In a module it makes the gateway the sender behind http.DefaultTransport, and so behind http.Get,
// http.DefaultClient and every http.Client without a Transport of its own; and the context of the function's
// requests gets their deadline. Compiled for the machine itself it changes nothing: net/http connects as
// always.
//
// A function may reach the origins that its manifest lists under outbound, "fn:<name>" among them, which is
// http://<name>.internal/. Others are an error that says what to list. Bodies stream in both directions.
// While the module waits for the network nothing else in it runs, since it has one thread: send several
// requests from goroutines and each still waits for its turn. The deadline of a request's context is
// handed to the gateway, which ends the wait; a cancellation is noticed between two waits.
//
// It is a package of its own because it makes a module 2.9 MB larger (net/http's own client comes with
// http.DefaultTransport), and needs the import module perigee_http, which other hosts don't have.
package outbound
