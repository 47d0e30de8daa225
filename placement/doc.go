// Package placement decides where code runs. PlanFunction chooses the nodes that hold a function,
// Route chooses the node that serves one request, Allowed says what the hard rules of a policy
// permit, and Check finds the contradictions in a policy before it is deployed. docs/placement.md
// explains all of it to people.
//
// Everything here is pure: what to decide about comes in as values (a View, facts about peers, the
// time, a number drawn by chance) and a decision with its reasons goes out. The package keeps no
// state, starts no goroutine, reads no clock, does no I/O and logs nothing, so every function may
// be called from any goroutine, equal input gives equal output on every node, and the same code
// answers "what would happen if".
//
// Three rules hold everywhere:
//
//   - Hard rules (residency, pin, forbid) are applied first, to every node, and nothing that comes
//     after, be it a failure, a preference or a client's wish, brings an excluded node back.
//     What can't be decided for want of knowledge, like membership in a group this node has not
//     heard of yet, counts as excluded.
//   - Every choice is a total order that ends in the node's ID.
//   - A refusal names the rule, the allowed nodes and what is wrong with each, and the nearest node
//     that the rule excludes.
//
// What holds for a while and must not change with every breath has an owner outside that steps it: an
// Ejection and a Ledger belong to the front, a Scaler, which decides where demand adds holders, to the node.
//
// A decision is made in two steps, and each is meant to be deepened in its place. Rules reduce the
// members of the cluster to those allowed (policy.go). Then an order is applied: for plans, by
// place, spread and rendezvous hashing (draft.go); for requests, by class, round-trip time and load
// (rank.go). Explanations are the same code asked for its reasons: verdict.go and lack.go for plans, refusal.go
// for requests.
package placement
