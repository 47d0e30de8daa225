package node

import (
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/usage"
)

// The administration API: JSON over the admin socket and over the mesh port (ALPN
// perigee-admin/1). Reads need a key that the cluster knows, or the socket. Usage and logs
// need the key of an operator or of somebody who may deploy the function. Every change is a signed record,
// so the API adds no authority of its own.
//
//	GET  /v1/status               Status
//	GET  /v1/nodes                []NodeStatus
//	GET  /v1/functions            []FunctionStatus
//	GET  /v1/functions/{name}     FunctionStatus; 404 with the name's heads when it is free
//	GET  /v1/regions              []perigee.RegionInfo
//	GET  /v1/rows                 [][]byte, what nodes signed about themselves
//	GET  /v1/functions/{name}/secrets  []SecretStatus
//	GET  /v1/tokens               []TokenStatus
//	GET  /v1/usage                Usage; ?function= for one
//	GET  /v1/functions/{name}/logs  lines of LogEvent; ?since=<Unix ns>&follow=1&node=
//	POST /v1/plan                 a manifest (JSON) -> placement.Plan against the live cluster
//	GET  /v1/explain/route        RouteExplanation; ?url=&from=&at=&prefer=&force=
//	POST /v1/what-if              WhatIf -> placement.Outcome
//	POST /v1/records              record frames -> Ack
//	POST /v1/deploy               two record frames, then the bundle -> lines of DeployEvent
//	ANY  /v1/invoke/{name}/…      the function's own response; the path goes on as it is
//	GET  /v1/certs                []CertStatus
//	POST /v1/certs/renew          order the certificate of ?name= anew (socket and operators)
//	POST /v1/certs/import         a CertImport (socket and operators)
//	GET  /v1/backup               a backup (package internal/backup; socket and operators)
//	POST /v1/drain                stop taking traffic (socket and operators)
//	POST /v1/upgrade              have the program of ?program= take over (socket only)
//
// A record frame is a big-endian uint32 length and that many bytes. Errors are {"error": "…"}.

// Status is a node's picture of itself and of its cluster.
type Status struct {
	Node      perigee.NodeID    `json:"node"`
	Region    perigee.Region    `json:"region"`
	Cluster   perigee.ClusterID `json:"cluster"`
	Epoch     uint32            `json:"epoch"` // rises with each restore from a backup
	Domain    string            `json:"domain"`
	Version   string            `json:"version"`
	Ready     bool              `json:"ready"`
	Why       string            `json:"why,omitempty"` // why it is not ready
	Nodes     int               `json:"nodes"`         // members known, this one included
	Alive     int               `json:"alive"`
	Signers   int               `json:"signers"`
	Functions int               `json:"functions"`
	State     perigee.Digest    `json:"state"`            // digest of all records; equal on nodes that hold the same
	Agree     int               `json:"agree"`            // alive nodes with the same digest, this one included
	Disk      string            `json:"disk,omitempty"`   // what is wrong with the disk
	Rotten    int               `json:"rotten,omitempty"` // files that had changed on it and were repaired, since the start
	Records   gossip.Usage      `json:"records"`          // what the state takes on this node
	Genesis   perigee.Digest    `json:"genesis"`
	Record    []byte            `json:"genesis_record"`
	Now       record.HLC        `json:"now"` // what a record signed now should carry
	Addrs     []string          `json:"addrs"`
	Worries   []string          `json:"worries,omitempty"` // what an operator should look at
	PID       int               `json:"pid"`
	Upgrade   string            `json:"upgrade,omitempty"` // why the last upgrade failed
}

// NodeStatus is one member as this node sees it.
type NodeStatus struct {
	perigee.Peer
	Self bool             `json:"self,omitempty"`
	RTT  perigee.Duration `json:"rtt,omitempty"`  // measured; 0 = not connected
	Over string           `json:"over,omitempty"` // what leads there: "udp", or "tcp" where UDP does not get through; "" = not connected
}

// FunctionStatus is a function, where it should be, and where it is.
type FunctionStatus struct {
	*perigee.Function
	Heads   []perigee.Digest `json:"heads"`          // what a new pointer record must name as its parents
	Past    []perigee.Digest `json:"past,omitempty"` // and as its past
	Plan    placement.Plan   `json:"plan"`
	Holders []Holder         `json:"holders"`
	URLs    []string         `json:"urls"`
	// Rollout is how far the live revision is that does not run everywhere yet; nil = it does.
	Rollout *placement.Rollout `json:"rollout,omitempty"`
	// Calls are what is asked of it, and Offers what one more holder would save; nil = nobody calls it. In the
	// answer about one function only.
	Calls  *placement.Calls  `json:"calls,omitempty"`
	Offers []placement.Offer `json:"offers,omitempty"`
	// Revisions are the newest first, the live one among them; in the answer about one function only.
	Revisions []RevisionStatus `json:"revisions,omitempty"`
}

// RevisionStatus is one revision of a function.
type RevisionStatus struct {
	ID        perigee.RevisionID `json:"id"`
	Record    perigee.Digest     `json:"record"` // that introduced it; a pointer names it
	Author    perigee.KeyID      `json:"author"`
	Created   time.Time          `json:"created"`
	Placement perigee.Policy     `json:"placement"`
	State     string             `json:"state"` // one of the constants below
	Nodes     []perigee.NodeID   `json:"nodes"` // that have it
}

// The states of a revision.
const (
	RevisionLive     = "live"
	RevisionConflict = "conflict" // deployed at the same time as the live one, and lost
	RevisionKept     = "kept"     // served before, and holders keep it
	RevisionOld      = "old"      // the record is kept for ever, its bundle is not
)

// SecretStatus is a secret of a function. Nobody but the nodes that may run it can read the value.
type SecretStatus struct {
	perigee.Secret
	Sealed []perigee.NodeID `json:"sealed_to"` // the nodes it was sealed to when it was set
	Used   bool             `json:"used"`      // the live manifest names it
}

// Holder is a node that the plan names or that has the live revision.
type Holder struct {
	Node    perigee.NodeID    `json:"node"`
	Region  perigee.Region    `json:"region"`
	Groups  []string          `json:"groups,omitempty"` // that the region is in
	State   perigee.NodeState `json:"state"`
	Planned bool              `json:"planned"`
	Wanted  perigee.Warmth    `json:"wanted"` // by the plan: Warm, Held for one that need not keep it loaded, or Absent
	Warmth  perigee.Warmth    `json:"warmth"`
	Trial   perigee.Trial     `json:"trial,omitempty"` // how its first run there goes; 0 = it passed
}

// Ready reports whether every planned holder that is alive is as warm as the plan wants it, and there
// is at least one.
func (s *FunctionStatus) Ready() bool {
	n := 0
	for _, h := range s.Holders {
		if h.Planned && h.State == perigee.NodeAlive {
			if h.Warmth < h.Wanted {
				return false
			}
			n++
		}
	}
	return n > 0
}

// RouteExplanation is what would happen to a request.
type RouteExplanation struct {
	From   string            `json:"from"`   // as it was asked
	Client perigee.Region    `json:"client"` // the region the client is in
	Away   perigee.Duration  `json:"away"`   // about, from there to the entry, or to the node that passes its connection on
	Passed *Passing          `json:"passed,omitempty"`
	Nearer *edgeproxy.Nearer `json:"nearer,omitempty"` // what the entry tells the client of other gateways; nil = its address is not known
	placement.RouteReport
}

// Passing says that a client does not reach the entry itself: another node passes its connection on, still
// encrypted.
type Passing struct {
	Node   perigee.NodeID `json:"node"` // that the client reaches
	Region perigee.Region `json:"region"`
	Rule   string         `json:"rule"` // that keeps this node from seeing the host's plaintext
}

// WhatIf is a question about a cluster that is otherwise than it is.
type WhatIf struct {
	Lose     []string          `json:"lose,omitempty"`     // places whose nodes are gone
	Add      []placement.Added `json:"add,omitempty"`      // nodes that join
	Rate     float64           `json:"rate,omitempty"`     // times the requests there are now; 0 = as now
	Manifest *perigee.Manifest `json:"manifest,omitempty"` // of a function that is deployed
}

// TokenStatus is a token as the cluster knows it; the secret half is not in it.
type TokenStatus struct {
	ID       perigee.KeyID    `json:"id"`
	Kind     record.TokenKind `json:"kind"`
	Region   perigee.Region   `json:"region,omitempty"`
	Signer   perigee.NodeID   `json:"signer"`
	Roles    []perigee.Role   `json:"roles,omitempty"` // of the node that joins
	Expires  time.Time        `json:"expires"`
	Redeemed string           `json:"redeemed,omitempty"` // by which node or key
	Revoked  bool             `json:"revoked,omitempty"`
	Scope    record.Scope     `json:"scope"` // of a deploy key
	// KeyRevoked says that the key which somebody got for the token was ended.
	KeyRevoked bool `json:"key_revoked,omitempty"`
}

// DeployEvent is one line of the answer to a deploy. The last line has Done or Error.
type DeployEvent struct {
	Step     string             `json:"step,omitempty"` // one of the constants below
	Node     perigee.NodeID     `json:"node,omitempty"`
	Detail   string             `json:"detail,omitempty"`
	Revision perigee.RevisionID `json:"revision,omitempty"`
	Stored   []perigee.NodeID   `json:"stored,omitempty"` // nodes with the records on disk
	Done     bool               `json:"done,omitempty"`
	Error    string             `json:"error,omitempty"`
}

// The steps of a deploy.
const (
	StepAdmitted = "admitted" // Node has stored, checked and loaded it
	StepCopied   = "copied"   // and so has this second Node
	StepWaiting  = "waiting"  // Node can't take it now, for the reason in Detail
	StepRecorded = "recorded" // it is live
)

// Placed is the outcome of a change of placement.
type Placed struct {
	Changed bool             `json:"changed"`           // false: this placement held already
	Stored  []perigee.NodeID `json:"stored,omitempty"`  // nodes with the record on disk
	Brought perigee.NodeID   `json:"brought,omitempty"` // got the bundle before the change, since no holder of the new plan had it
}

// Usage is what functions used on all nodes that answered.
type Usage struct {
	Nodes []UsageNode  `json:"nodes"`
	Rows  []usage.Row  `json:"rows"` // summed over the nodes of a region
	Total usage.Counts `json:"total"`
}

// UsageNode is where rows come from, or don't.
type UsageNode struct {
	Node    perigee.NodeID `json:"node"`
	Region  perigee.Region `json:"region"`
	Since   time.Time      `json:"since,omitzero"`    // when it began to count
	At      time.Time      `json:"as_of,omitzero"`    // when it answered
	Missing string         `json:"missing,omitempty"` // why it did not answer; its usage is not in the sums
}

// LogEvent is one line of an answer about logs. Exactly one of its fields but Node is set.
type LogEvent struct {
	Node     perigee.NodeID `json:"node,omitempty"`
	Line     *LogLine       `json:"line,omitempty"`
	Missed   uint64         `json:"missed,omitempty"`    // lines that were dropped because the reader was too slow, or they were too many
	Error    string         `json:"error,omitempty"`     // why the node's lines are missing, or come no more
	CaughtUp bool           `json:"caught_up,omitempty"` // all lines that were kept have been sent
}

// LogLine is a line that a guest logged or printed, or why its request failed. It is fit for a terminal.
type LogLine struct {
	Time     time.Time          `json:"time"`
	Node     perigee.NodeID     `json:"node"`
	Region   perigee.Region     `json:"region"`
	Function string             `json:"function"`
	Revision perigee.RevisionID `json:"revision"`
	Request  string             `json:"request,omitempty"` // id, as in the receipt; "" = the guest was starting
	Level    string             `json:"level"`             // DEBUG, INFO, WARN or ERROR
	Text     string             `json:"text"`
}

// Ack says which nodes have the records on disk, this one first.
type Ack struct {
	Stored []perigee.NodeID `json:"stored"`
}

type apiError struct {
	Error string           `json:"error"`
	Heads []perigee.Digest `json:"heads,omitempty"` // of a name that is free
	Past  []perigee.Digest `json:"past,omitempty"`  // of it, too
}
