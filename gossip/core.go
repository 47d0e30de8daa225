package gossip

import (
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// Core is what one node holds and what it does with it: merging, pushing, comparing and setting
// aside. It is one pure step function: an event goes in, effects come out. It has no clock, no
// goroutine, no lock, no disk and no network; chance comes from the source that it was given. Real
// nodes, the simulator (internal/sim/cluster) and tests run this same code. What carries effects out
// is the caller's: Gossip's (see rim.go), or the simulator's.
//
// The caller owes it three answers. Each Call ends in one Answered or Failed, each Batch in one
// Stored, in any order and at any time; and a Tick comes no later than Effects.Wake.
//
// It is not safe for concurrent use.
type Core struct {
	self    perigee.NodeID
	region  perigee.Region
	chance  *rand.Rand
	max     int64 // of the set, in bytes
	started bool

	parser    *parser
	geneses   []*entry // of the epochs, the present one last
	set       *set
	fold      *folded
	pending   *pending
	aside     map[perigee.Digest]Aside
	outlived  map[perigee.Digest]bool          // some of those that came and did not stay, see collect.go
	collected Collected                        // since the start
	try       func(*perigee.Desired, []string) // see Config.Read
	clock     *clock
	rows      rowTable

	peers   []Peer
	boxes   map[perigee.NodeID]*outbox
	calls   map[uint64]*pendingCall
	batches map[uint64]*batch
	storing map[perigee.Digest]*batch // what is on its way to the disk
	limits  map[perigee.NodeID]*rate.Limiter
	number  uint64 // of the last call or batch

	submits   []Submit // wait for the one that is being stored
	submitted *Submit
	deadlines []*replication

	syncing  bool
	nextSync time.Time
	forget   time.Time // when to clear outlived
	dueCheck time.Time // when to look at what waits for its time

	out Effects
}

// CoreConfig says who the node is and what it trusts.
type CoreConfig struct {
	Self          perigee.NodeID
	Region        perigee.Region
	Cluster       perigee.ClusterID
	Root          *x509.Certificate
	Genesis       []byte
	CheckManifest func(*perigee.Manifest) error                // see Config
	Read          func(d *perigee.Desired, functions []string) // see Config; nil = nothing
	Max           perigee.Bytes                                // of all records
	History       int                                          // revisions of a function that served and stay, equal on all nodes; 0 = 20
	Chance        *rand.Rand
	// Claims, where set, replaces the check of rows' certificates and signatures. It is for the
	// simulator alone, where they would be nothing but work.
	Claims func(perigee.NodeID) perigee.NodeClaims
}

// NewCore returns a core that holds the genesis record alone, and those before it, which it verifies.
func NewCore(conf CoreConfig) (*Core, error) {
	p, err := newParser(conf.Genesis, conf.CheckManifest)
	if err != nil {
		return nil, err
	}
	if p.cluster != conf.Cluster || !p.present().root.Equal(conf.Root) {
		return nil, fmt.Errorf("genesis record: %w: it does not fit this node's certificate", ErrForeign)
	}
	geneses, err := p.geneses()
	if err != nil {
		return nil, err
	}
	c := &Core{
		self: conf.Self, region: conf.Region, chance: conf.Chance, max: int64(conf.Max),
		parser: p, geneses: geneses, set: newSet(), pending: newPending(), aside: map[perigee.Digest]Aside{}, outlived: map[perigee.Digest]bool{}, try: conf.Read, clock: &clock{},
		boxes: map[perigee.NodeID]*outbox{}, calls: map[uint64]*pendingCall{}, batches: map[uint64]*batch{},
		storing: map[perigee.Digest]*batch{}, limits: map[perigee.NodeID]*rate.Limiter{},
	}
	if conf.History > 0 {
		c.set.history = conf.History
	}
	auth := func() *authority { return c.fold.auth }
	c.rows = rowTable{
		self: conf.Self, region: conf.Region, auth: auth, verify: verifyRow(conf.Cluster, conf.Root, auth),
		rows: map[perigee.NodeID]*rowState{}, gone: map[perigee.NodeID]goneRow{},
	}
	if conf.Claims != nil {
		c.rows.verify = func(_ record.SignedRow, row perigee.Row, _ *rowState, now time.Time) (*rowState, error) {
			return &rowState{row: row, claims: conf.Claims(row.Node), expires: now.AddDate(1, 0, 0)}, nil
		}
	}
	return c, nil
}

// Peer is a node that can be called, or an address where one may be.
type Peer struct {
	ID      perigee.NodeID // "" = not known who is there
	Region  perigee.Region // "" = not known yet
	Addr    netip.AddrPort // for those without a row, whose address only membership knows
	Suspect bool
}

// Event is something that happened: one of the types below.
type Event interface {
	apply(c *Core, now time.Time)
}

// Start lets the node call others; Stop takes it back, and every open push fails.
type (
	Start struct{}
	Stop  struct{}
)

// Tick says that time passed.
type Tick struct{}

// Peers replaces the list of those that can be called: the alive ones first, suspects after them.
type Peers struct{ List []Peer }

// Joined says that somebody appeared, which is a reason to compare at once.
type Joined struct{}

// Asked is a message of a peer; exactly one Reply with the number answers it.
type Asked struct {
	From    perigee.NodeID
	Number  uint64
	Message Message
}

// Answered is the answer to a Call.
type Answered struct {
	Number  uint64
	Message Message
}

// Failed says that a Call has no answer.
type Failed struct {
	Number uint64
	Err    error
}

// Stored says that a Batch is on disk, or why it is not.
type Stored struct {
	Number uint64
	Err    error
}

// Submit brings records of people and of this node; one Outcome with the number answers it.
type Submit struct {
	Number  uint64
	Records [][]byte
}

// Own brings this node's newly signed row. Where Number is not 0, an Outcome follows when those that
// were told have answered.
type Own struct {
	Number uint64
	Row    *rowState
	Reach  Reach
}

// Reach says how far something is passed on.
type Reach uint8

// The reaches.
const (
	ReachOne  Reach = iota // not passed on
	ReachNear              // within the region
	ReachAll
)

// Effects is what a step asks of its caller.
type Effects struct {
	Calls    []Call
	Replies  []Reply
	Store    []Batch
	Outcomes []Outcome
	Desired  bool      // the meaning of the records changed: publish it
	Observed bool      // rows changed: look at them
	Outrun   mark      // a row of this node's former life was seen
	Wake     time.Time // a Tick is due then; zero = none
	Aside    []Aside   // records that are kept without being read
	Counts   Counts
	Refused  []error // of rows, for the log
}

// Call is a message to a peer.
type Call struct {
	Number  uint64
	To      Peer
	Message Message
	Timeout time.Duration
}

// Reply answers an Asked.
type Reply struct {
	Number  uint64
	Message Message
	Err     error
}

// Batch is to be put on disk, all or nothing.
type Batch struct {
	Number uint64
	Raws   [][]byte
}

// Outcome answers a Submit or an Own.
type Outcome struct {
	Number uint64
	Err    error          // it was refused, and nothing stored
	Node   perigee.NodeID // which confirmed that it has it on disk; "" = none in time
}

// Counts is what happened in a step, for metrics.
type Counts struct {
	Refused               map[Rule]int
	FromPeers, FromPeople int // records stored
	Collected
	RowsNew, RowsRefused            int
	PushesOK, PushesFailed, Dropped int
	Equal, Repaired, SyncFailed     int
}

// Collected is what was taken out of the set.
type Collected struct {
	Outlived      int // records
	OutlivedBytes int64
}

func (c *Collected) add(list []*entry) {
	c.Outlived += len(list)
	for _, e := range list {
		c.OutlivedBytes += int64(len(e.raw))
	}
}

// Step takes one event and returns what follows from it.
func (c *Core) Step(now time.Time, e Event) Effects {
	c.out = Effects{}
	e.apply(c, now)
	c.due(now)
	c.out.Wake = c.wake(now)
	return c.out
}

func (Tick) apply(*Core, time.Time) {}

func (Start) apply(c *Core, now time.Time) {
	c.started = true
	c.planSync(now)
}

func (Stop) apply(c *Core, now time.Time) {
	c.started = false
	c.dropBoxes(now)
}

func (e Peers) apply(c *Core, _ time.Time) { c.peers = e.List }

func (Joined) apply(c *Core, now time.Time) {
	if c.started {
		c.nextSync = now
	}
}

func (e Own) apply(c *Core, now time.Time) {
	c.rows.rows[c.self] = e.Row
	c.out.Observed = true
	c.tellRow(now, e)
}

// due does what time alone brings.
func (c *Core) due(now time.Time) {
	if !c.started {
		return
	}
	c.expire(now)
	if c.pending.len() > 0 && !now.Before(c.dueCheck) {
		c.dueCheck = now.Add(pendingEvery)
		c.retry(now, c.pending.takeDue(now))
	}
	if !c.syncing && !now.Before(c.nextSync) {
		c.sync(now)
	}
	c.sendBoxes(now)
}

// wake returns when the next thing is due.
func (c *Core) wake(now time.Time) (at time.Time) {
	if !c.started {
		return at
	}
	soonest := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if !c.syncing {
		soonest(c.nextSync)
	}
	if c.pending.len() > 0 {
		soonest(c.dueCheck)
	}
	for _, box := range c.boxes {
		if !box.busy {
			soonest(box.due)
		}
	}
	for _, r := range c.deadlines {
		soonest(r.deadline)
	}
	if at.Before(now) && !at.IsZero() {
		at = now
	}
	return at
}

// pendingCall is a call without its answer.
type pendingCall struct {
	to   Peer
	then func(now time.Time, m Message, err error)
}

// call sends a message; then gets its answer or an error, in a later step.
func (c *Core) call(to Peer, m Message, timeout time.Duration, then func(time.Time, Message, error)) {
	c.number++
	c.calls[c.number] = &pendingCall{to, then}
	c.out.Calls = append(c.out.Calls, Call{c.number, to, m, timeout})
}

func (e Answered) apply(c *Core, now time.Time) { c.answered(now, e.Number, e.Message, nil) }

func (e Failed) apply(c *Core, now time.Time) { c.answered(now, e.Number, nil, e.Err) }

func (c *Core) answered(now time.Time, number uint64, m Message, err error) {
	p := c.calls[number]
	if p == nil {
		return
	}
	delete(c.calls, number)
	for i := range c.peers { // until the caller's next list says otherwise
		if c.peers[i].ID == p.to.ID && p.to.ID != "" {
			c.peers[i].Suspect = err != nil
		}
	}
	p.then(now, m, err)
}

// Root returns the digest of the identities of all records held.
func (c *Core) Root() perigee.Digest { return c.set.tree.root }

// Holds reports whether a record is on this node's disk, as far as the core was told.
func (c *Core) Holds(id perigee.Digest) bool { return c.set.byID[id] != nil }

// Desired returns what the records mean.
func (c *Core) Desired() *perigee.Desired { return c.fold.desired }

// Now returns a reading of the cluster's clock that is after every record seen here.
func (c *Core) Now(now time.Time) record.HLC { return c.clock.now(now) }

// Heads returns the pointers of a function that nothing replaces yet.
func (c *Core) Heads(function string) []perigee.Digest { return c.fold.heads(function) }

// Past returns what a pointer that replaces the heads should name as its past.
func (c *Core) Past(function string) []perigee.Digest { return c.fold.past(function) }

// Rows returns what the nodes say about themselves, as far as it was verified.
func (c *Core) Rows() map[perigee.NodeID]perigee.Row {
	rows := make(map[perigee.NodeID]perigee.Row, len(c.rows.rows))
	for id, s := range c.rows.rows {
		rows[id] = s.row
	}
	return rows
}

// Rights returns who may write, and what, sorted by key.
func (c *Core) Rights() (all []Person) {
	for _, id := range slices.Sorted(maps.Keys(c.fold.auth.grants)) {
		if p, ok := c.fold.auth.person(id); ok {
			all = append(all, p)
		}
	}
	return all
}
