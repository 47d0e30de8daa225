// Package cluster simulates clusters: up to a thousand nodes, each a gossip.Core, the code that real
// nodes run, with everything around it simulated. One goroutine takes one event after another from a
// queue in the order of simulated time, and all chance comes from one seed, so that a run is replayed
// by its seed, to the last message.
//
// What is simulated: distances (internal/wan's published table), jitter, loss and its repair as QUIC
// does it (a probe after 1.5 round trips and 25 ms, doubled each time), handshakes of connections that
// are not open yet, calls that time out, partitions, also one-way; disks whose sync takes time, and
// processes that die and come back with what was synced; clocks that are off.
//
// What is not: bandwidth; membership (nodes are told who exists, and find out by themselves who does
// not answer); certificates and signatures of rows, which cost time and change nothing. Records are
// signed and verified as ever.
package cluster
