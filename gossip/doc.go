// Package gossip knows who is there and what they have: it keeps this node's copy of the cluster's
// shared state, makes it equal to that of the other nodes, and publishes it as a perigee.View. It
// is the one writer of the View. It decides nothing: where functions run and where requests go is
// placement's business.
//
// There are two halves. Desired is what people asked for: a set of signed records, kept
// on disk by every node, and folded into functions, regions and rights. Observed is what nodes say
// about themselves, in signed rows that are never on disk, and what the membership protocol
// (memberlist) and this node's own calls say about who is alive. Membership proves nothing: names,
// places and addresses come from rows, whose certificates prove them.
//
// # The fold
//
// Records are ordered by clock, then by identity. The governing records (genesis, token, redeem,
// revoke) are replayed in that order and say who may write what; see authority. All others have
// their effect if the key that signed them had the right to write them and was not revoked before.
// A record without effect is kept all the same, since what has an effect may change when another
// record arrives, and nodes that hold the same records must agree, whatever came first.
//
// Of the pointers of a function those that another replaced are dropped (a pointer's parents are
// those that its author saw); of the rest the latest wins, and the others are conflicts until
// somebody replaces them all. A route that two functions ask for belongs to the one that has asked
// for it longer without a break.
//
// # Collection
//
// A set of records only grows, but for those that are outlived: nothing that could still come would give them a
// meaning. What is outlived follows from the set (collect.go), so each node collects by itself, when it takes
// records in, and refuses what is outlived when it comes again. The log holds it until it is folded.
//
// # On disk
//
// The file state.snap is "PGSNP\x00\x00\x01", a seal of 32 bytes, and entries; the file state.log, which has
// what came since, is "PGLOG\x00\x00\x01" and entries: length, 4 bytes; CRC32C over the length and the
// record, 4 bytes; the record (package record). Integers are big-endian. An entry is synced before anybody
// hears that it is stored. A log that has become long is folded: a new snapshot replaces the old one, then an
// empty log the old one; what a crash in between leaves in both counts once. The seal is a MAC under a key of
// this node's own: the entries of a sealed snapshot were verified when they were written, and start without
// it again. A snapshot without a good seal, and the log, are verified record by record. Bytes that are no
// entry are skipped and kept in state.log.bad; what they were comes back from peers. Records that this
// release can't read stay in the file, also those that break its reader (aside.go; reading.json is for those). The file peers.json has the addresses of the members that were alive last; it is a
// hint and nothing more.
//
// # On the wire
//
// Messages are CBOR maps (package record), at most 8 MiB each, posted over the mesh's control
// connections, which prove both nodes' identities:
//
//	/gossip/sync   my root digest and that of the marks of my rows -> yours, bucket digests where the
//	               roots differ, your marks where those differ
//	/gossip/rows   rows, and nodes whose rows I lack -> those
//	/gossip/ids    bucket numbers -> the identities of their records
//	/gossip/get    identities -> records
//	/gossip/push   records and rows -> which of the records are on your disk now
//
// What is new is pushed at once, to everyone in a small cluster, else to a few peers who pass it on
// once. And once a second each node compares its state with one peer by a hash tree over the
// identities of the records: a root, 256 buckets, identities, records. The tree has no memory, so it
// also repairs what a disk lost. Membership's packets and streams go over the mesh too.
//
// Rows come in two tiers: detail in the region, and a few changes from elsewhere. A change that
// routing depends on is pushed to all. Load and digests are pushed in the region only, at most 20
// rows a second of a region together, and cross into another by comparison, where a row is replaced
// at most every three seconds, in a large cluster less often. Rows that did not change are not pushed. Comparisons are with six
// peers, which change every hour, so that an idle node has few connections.
//
// # The core
//
// Core is all of that as one pure step function: events in, effects out. The simulator runs it too.
// Gossip is the rim around it: calls over the mesh, the log, the clock, membership.
//
// # Goroutines
//
// New starts none. Run owns all of them and ends them, except that memberlist lets a probe that is
// under way run out, which takes a second or so after Run has returned. Events are given to the core by
// whoever brings them, one at a time; records are stored by the same caller, and callers that come
// together share one sync.
package gossip
