// Package edgeproxy is the way from a client's socket to a response. It listens for HTTPS and plain
// HTTP, gets certificates, finds the function that answers a host and path, asks package placement
// where it should run, and runs it there: here, through [Local], or on another node, through
// [Hops]. The other half of a hop, the worker's, is here too ([Proxy.HopHandler]).
//
// It does not decide where functions may or should run, load or run guests, speak to peers, or
// store anything but web certificates and, in memory, the responses that package cache lets it store. What it believes about the cluster is the View, read once per
// request; the only other knowledge is one small table of facts about peers (peers.go).
//
// # A request
//
//  1. serve.go: the host is brought into its canonical form, the function looked up in the View;
//     headers that only nodes may set are dropped, what the client says about steering is read.
//     A function that lets responses be stored is asked only for what is not: cached.go, and fetch.go, by which
//     the rest of this happens once for all who want the same.
//  2. placement.Route: candidates, best first, or a refusal that names its rule.
//  3. forward.go: the first candidate is tried. Refused before the guest started, or failed in a way
//     that may be repeated (retry.go has the one table), the next is.
//  4. hop.go, on the worker: all is checked again with the worker's own View, then Local runs it. A
//     hop is never sent on.
//  5. answer.go: headers of the response are cleaned, the receipt is added, the body streams.
//
// Whoever writes a guest's response into an [http.ResponseWriter] of this package may find it also
// implements [Reporter].
//
// Every response carries a receipt, unless it is switched off; errors too. The exceptions are the
// answers that net/http gives by itself to heads it can't read or that are too large.
//
// # Goroutines
//
// [Proxy.Run] owns the goroutines of the listeners, their connections and the certificate cache, and
// returns when they have ended. A connection of HTTP/2 has one that sends (gather.go). [Proxy.ServeHTTP] starts one for a hedge (hedge.go), which has ended before it
// returns, and one for each fetch of the cache (fetch.go), which may go on after it and ends before Run; the hop handler starts none.
//
// # Hop metadata
//
// A request to a peer is the client's request with these header fields added; clients can't set them,
// since the front drops every field that starts with "Perigee-". Each occurs at most once.
//
//	Perigee-Hop-Function   name of the function
//	Perigee-Hop-Revision   revision to run
//	Perigee-Hop-Entry      node that took the client's request
//	Perigee-Hop-Region     its region
//	Perigee-Hop-Client     the client's IP address
//	Perigee-Hop-Proto      "https" or "http": what the client spoke
//	Perigee-Hop-Version    "HTTP/1.1", "HTTP/2.0" or "HTTP/3.0", likewise; absent = not known
//	Perigee-Hop-Id         the request's id, 16 hexadecimal digits
//	Perigee-Hop-Timeout    milliseconds left; absent = no limit
//	Perigee-Hop-Path       nodes the request has passed, joined by ","
//	Perigee-Hop-Cold       "1": run it even if the revision must be loaded first
//	Perigee-Hop-Depth      how many functions called one another to make this request; absent = a client did
//	Perigee-Hop-From       the function that made it; with Depth
//	Perigee-Hop-Upgrade    "websocket": the client asks for it; what it sends then is the body of the request
//
// The host is the request's own. The response of a peer carries, for the entry node only:
//
//	Perigee-Hop-Start      "warm", "image" or "cold"
//	Perigee-Hop-Fuel       instructions used, with ";partial" if the guest runs on; absent = not measured
//	Perigee-Hop-Refused    a perigee.RefuseCode: refused after accepted, but before the guest started
//	Perigee-Hop-Fault      a Fault: the guest failed before it responded; or "internal": the node did
//	Perigee-Hop-Detail     what happened, for people; with Fault
//	Perigee-Hop-Upgrade    "websocket": it was agreed to (status 200), and the body is what the origin sends
//	Perigee-Hop-Limit      the limit that was run into, if Fault does not say it; with Refused or Fault
//
// and, from the function to the entry node's cache, Perigee-CDN-Cache-Control.
//
// After a response whose head has a fuel that is partial, and that has no Content-Length, a trailer field
// Perigee-Hop-Fuel has the last word.
//
// # Connections that are passed on
//
// The TLS of a host ends only at nodes that its residency allows (placement.Terminates). Another node reads
// the ClientHello, and passes the connection, still encrypted, on to the nearest of those: a POST to it with
// the host, and with Perigee-Hop-Pass, the client's address and port, as the only field. Its body is what the
// client sends, that of its response what goes back. Nothing is passed on twice.
package edgeproxy
