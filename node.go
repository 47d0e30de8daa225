package perigee

import (
	"net/netip"
	"slices"
	"time"
)

// NodeClaims is what a node's certificate says about it. The cluster's CA signs it, so that a
// node can't lie about where it is.
type NodeClaims struct {
	ID     NodeID            `json:"id"`
	Region Region            `json:"region"`
	Zone   string            `json:"zone,omitempty"` // a part of the region that fails on its own; empty = unknown
	Labels map[string]string `json:"labels,omitempty"`
	Roles  []Role            `json:"roles,omitempty"`
}

// A Role is a right that a node's certificate carries beyond serving requests.
type Role string

// RoleSigner lets a node issue node certificates and record the redemption of tokens.
const RoleSigner Role = "signer"

// RoleIssuer lets a node order web certificates from a public CA and hand them to the nodes that
// answer for their hosts.
const RoleIssuer Role = "issuer"

// HasRole reports whether the certificate carries the role.
func (n NodeClaims) HasRole(r Role) bool { return slices.Contains(n.Roles, r) }

// NodeState is what the membership protocol believes about a node.
type NodeState string

// The states of a node.
const (
	NodeAlive   NodeState = "alive"
	NodeSuspect NodeState = "suspect" // did not answer lately; still routed to if its links work
	NodeLeft    NodeState = "left"    // said goodbye
	NodeDead    NodeState = "dead"    // stayed silent
)

// Row is what a node says about itself: one writer, newest (Incarnation, Seq) wins, never stored
// on disk. It travels signed by the node's key.
type Row struct {
	Node        NodeID                `json:"node"`
	Incarnation uint64                `json:"incarnation"` // Unix milliseconds of the node's start
	Seq         uint64                `json:"seq"`         // rises with every change
	Addr        netip.AddrPort        `json:"addr"`        // where peers reach its mesh port
	HTTPS       string                `json:"https,omitempty"`
	Version     string                `json:"version"`
	Draining    bool                  `json:"draining,omitempty"`
	Full        bool                  `json:"full,omitempty"` // its disk has no room: it serves what it has and takes nothing new
	Revisions   map[RevisionID]Warmth `json:"revisions,omitempty"`
	Trials      map[RevisionID]Trial  `json:"trials,omitempty"` // of revisions that did not pass here (yet)
	Load        Load                  `json:"load"`
	ClockOff    Offset                `json:"clock_off,omitempty"` // how far its clock is behind the median of its peers', in steps of 100 ms; negative = ahead
	Memory      Bytes                 `json:"memory,omitempty"`    // what it has for guests; 0 = not told
	Near        map[string]uint32     `json:"near,omitempty"`      // round trips to hosts that policies want to be near to, in microseconds
	Traffic     map[string]Traffic    `json:"traffic,omitempty"`   // by function; the idle are left out, and of many those with the least
	Optional    map[string][]Optional `json:"optional,omitempty"`  // by function: the holders that demand asks for, as far as this node decides it; best first
	Sealing     []byte                `json:"sealing,omitempty"`   // X25519 key to which others seal what this node may read
	Digest      Digest                `json:"digest"`              // of all desired records it holds; equal digests mean equal state
}

// Traffic is what a node has to do with a function, lately: it rises within seconds and falls within a
// minute or so.
type Traffic struct {
	Asked uint32 `json:"asked" cbor:"1,keyasint,omitempty"` // requests a second of clients that reached this node, wherever they ran; in hundredths
	Busy  uint32 `json:"busy" cbor:"2,keyasint,omitempty"`  // requests that ran here at once, in hundredths
	Slots uint32 `json:"slots" cbor:"3,keyasint,omitempty"` // requests of it that this node runs at once without harm; 0 = it does not run it
}

// Optional is a holder of a function that no rule asks for: those who call it do.
type Optional struct {
	Node NodeID `json:"node" cbor:"1,keyasint"`
	Gain uint32 `json:"gain" cbor:"2,keyasint,omitempty"` // what its callers wait less in each second, all together, in milliseconds
}

// Peer is one node as the View shows it.
type Peer struct {
	NodeClaims
	Row
	State   NodeState `json:"state"`
	Expires time.Time `json:"expires"` // end of its certificate
}

// Warmth says how near a node is to answering with a revision.
type Warmth uint8

// The steps to readiness, in order.
const (
	Absent Warmth = iota // not here
	Held                 // the bundle is on disk and admitted
	Warm                 // compiled and loaded
)

// String returns the step's name.
func (w Warmth) String() string {
	switch w {
	case Held:
		return "held"
	case Warm:
		return "warm"
	}
	return "absent"
}

// Trial is how the first run of a revision on a node goes.
type Trial uint8

// The states of a trial.
const (
	TrialNone   Trial = iota // it passed, or the node has never heard of it
	Untried                  // it is here, or about to be, and has not run
	Trying                   // it runs, and is watched
	TrialFailed              // it killed the node, or failed its health rule: it does not run here
)

// Load is what a node reports of its work, in its row and on every response to a peer.
type Load struct {
	InFlight int32 `json:"inflight"` // requests running or queued
	Slots    int32 `json:"slots"`    // requests it runs at once

	// Service is what a request takes there, its median in microseconds; 0 = not known. Of a node's row
	// it is left out: functions differ.
	Service uint32 `json:"service,omitempty"`
}

// Routable reports whether requests may be sent to the node at all.
func (p *Peer) Routable() bool {
	return !p.Draining && (p.State == NodeAlive || p.State == NodeSuspect)
}
