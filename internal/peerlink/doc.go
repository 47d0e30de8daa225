// Package peerlink carries everything between the nodes of a cluster, and between a node and the
// command line, over QUIC on one UDP socket, or through TCP where UDP is blocked: requests that hop to another node, control calls,
// joining, administration, and the packets and streams of the membership protocol. To the code
// above it a peer is an http.RoundTripper on one side and an http.Handler on the other.
//
// It does not choose a peer, retry, queue or admit: a hop that was not started comes back as a
// *perigee.HopError and the caller decides. It does not know who may do what: it authenticates
// (package identity says how) and hands claims, persons and connection states to the handlers. It
// stores nothing.
//
// # Goroutines
//
// [Link.Run] owns every goroutine of a Link: the accept loop, one loop per inbound connection, one
// goroutine per inbound stream, dials, one watcher per connection, the packet reader and the
// reaper. It returns when all of them have ended. The one exception is the copying of a request's
// body to a peer: it belongs to the request and ends when Body.Read returns. A [Client] owns its
// goroutines until Close.
//
// # Connections
//
// Four protocols share the socket and are told apart by ALPN. Each connection carries one of them.
//
//	perigee-peer/1     mutual TLS between nodes; request hops; 1 to Config.DataConns per peer
//	perigee-control/1  mutual TLS between nodes; control calls, raw streams; one per peer
//	perigee-join/1     no client certificate; one call that proves a token
//	perigee-admin/1    a person's self-signed certificate; administration
//
// A connection is used for requests by the side that dialled it only. It is opened when first
// needed and closed by either side when no stream used it for Config.UnusedTimeout. Only the
// dialling side sends keep-alives, so that a stranger can't make a node hold a connection open.
//
// # Ways
//
// A connection goes over UDP. If that gets no answer within a head start, or failed lately, it goes through a
// tunnel: TCP to the same port with TLS by the same configurations, which carries the packets of QUIC and of the
// membership protocol. Which way leads to a peer is remembered (paths) and corrected by connections only: UDP is
// tried again after Config.RetryUDP, less and less often. Callers see no difference.
//
// On a tunnel, both sides send, again and again, length(2, big endian) packet. Length 0 says that what is new
// belongs on another tunnel. A TCP connection that begins with a probe (below) gets its answer and is closed.
//
// # Stream format, version 1
//
// An exchange is one bidirectional QUIC stream, opened by the requester. Each direction is a
// sequence of frames, ended by FIN:
//
//	frame    type(1) version(1) length(varint) payload(length)
//
// Integers are the variable-length integers of RFC 9000, section 16. The version is 1 in every
// frame. A frame of an unknown type from 0x80 up is skipped (up to 64 KiB, 16 in a row); any other
// unknown type, and any other version, resets the stream. Bytes of a payload after the fields below
// are ignored, so that a later release may append fields.
//
//	0x01 request   flags(varint) timeout(varint) size method authority target fields
//	0x02 accepted  load
//	0x03 refused   code(varint) load limit?(string)
//	0x04 response  status(varint) size fields
//	0x05 data      1 or more bytes of a body
//	0x06 end       load fields              the trailers, and the worker's last load
//	0x07 raw       kind(varint)             then bytes without frames, both ways
//	0x80 interim   status(varint) fields    100: the body is wanted; 103: Early Hints
//
//	flags    1 = the worker answers accepted or refused first; 2 = the request has no body;
//	         4 = the requester holds the body until an interim frame says that it is wanted, if the
//	         worker says 1 behind the load of accepted, as releases that know the flag do
//	timeout  microseconds that the requester will still wait; 0 = no limit
//	size     length of the body plus one; 0 = not known
//	string   length(varint) bytes           method, authority, target, names and values
//	fields   count(varint), then count times: name(string) value(string)
//	load     0, or 1 in-flight(varint) slots(varint) service(varint): median in microseconds, 0 = not known
//
// A request frame with its fields, like a response, end or interim frame, has at most 64 KiB and 256 fields;
// other frames but data have at most 1 KiB. The request direction is
//
//	request data* end?
//
// and the response direction, where accepted appears only if flag 1 was set,
//
//	refused  |  accepted? interim* response data* end?
//
// With flag 1 the requester sends nothing after the request frame until it read accepted, so that a
// body that was refused is untouched. With flag 4 it waits further, and an interim frame with 100 may come
// among the data, too. Hop-by-hop header fields do not travel.
//
// # Reset codes
//
// RESET_STREAM and STOP_SENDING carry a [ResetCode]. A requester that gives up resets both
// directions, which cancels the context of the handler. The codes from 0x10 up are those of a
// refused frame too.
//
// # Packets that are not QUIC
//
// Packets whose first two bits are 0 belong to the membership protocol, except probes: 20 bytes,
// "?pg" and 1 (asked) or 2 (answered), then a nonce of 16 bytes. Whoever receives a probe that asks
// answers with the same nonce, at a bounded rate.
package peerlink
