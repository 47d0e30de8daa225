package cluster

import (
	"container/heap"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"hash/fnv"
	"math/big"
	"math/rand/v2"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/wan"
)

// Regions are those of the published table.
var Regions = []perigee.Region{"dal", "tor", "wdc", "fra", "lon", "mad", "osa", "syd", "tok", "sao"}

// Config describes a simulated cluster.
type Config struct {
	Seed    uint64
	Nodes   int
	Regions []perigee.Region // nodes take turns; nil = Regions
	Loss    float64          // of packets
	Skew    time.Duration    // clocks are off by at most this much
	History int              // revisions of a function that stay; 0 = as on real nodes
}

// World is a simulated cluster. It is not safe for concurrent use.
type World struct {
	conf      Config
	now       time.Time
	chance    *rand.Rand
	queue     events
	seq       uint64
	trace     uint64 // a digest of all that happened
	rtt       func(from, to perigee.Region) time.Duration
	blocked   func(from, to *Node) bool // nil = nothing is
	nodes     []*Node
	byID      map[perigee.NodeID]*Node
	number    uint64 // of the last question
	questions map[uint64]question
	outcomes  map[uint64]func(gossip.Outcome)
	stored    func(*Node) // called after a node's records changed
	sent      func(from, to *Node, m gossip.Message)

	id       perigee.ClusterID
	root     *x509.Certificate
	operator ed25519.PrivateKey
	genesis  []byte
}

// question is a message that waits for its reply.
type question struct {
	from *Node
	life int
	call uint64
	at   time.Time
}

// epoch is when worlds begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a cluster whose nodes all run and know of each other.
func New(conf Config) (*World, error) {
	if conf.Regions == nil {
		conf.Regions = Regions
	}
	w := &World{
		conf: conf, now: epoch, chance: rand.New(rand.NewPCG(conf.Seed, 0)), id: "00112233445566aa", byID: map[perigee.NodeID]*Node{},
		rtt: wan.Published().Between(perigee.BuiltinRegions()), questions: map[uint64]question{}, outcomes: map[uint64]func(gossip.Outcome){},
		operator: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), stored: func(*Node) {}, sent: func(*Node, *Node, gossip.Message) {},
	}
	var err error
	if w.root, err = rootCert(w.operator); err != nil {
		return nil, fmt.Errorf("make a simulated cluster: %w", err)
	}
	_, w.genesis, err = record.Sign(w.operator, w.id, 1, record.HLCAt(epoch), nil, &record.Genesis{
		Cluster: w.id, Domain: "fn.example.com", Operator: w.operator.Public().(ed25519.PublicKey), Root: w.root.Raw, WebRoot: []byte{1},
	})
	if err != nil {
		return nil, fmt.Errorf("make a simulated cluster: %w", err)
	}
	for i := range conf.Nodes {
		region := conf.Regions[i%len(conf.Regions)]
		n := &Node{World: w, region: region, id: perigee.NodeID(fmt.Sprintf("%s-%d", region, i/len(conf.Regions)+1))}
		if conf.Skew > 0 {
			n.skew = time.Duration(w.chance.Int64N(int64(2*conf.Skew))) - conf.Skew
		}
		w.nodes = append(w.nodes, n)
		w.byID[n.id] = n
	}
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// rootCert makes a certificate that is the same each time. Nothing in a simulation is signed with it.
func rootCert(key ed25519.PrivateKey) (*x509.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// after plans something.
func (w *World) after(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now.Add(d), w.seq, f})
}

// Run lets simulated time pass.
func (w *World) Run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.f()
	}
	w.now = end
}

// RunUntil lets simulated time pass until ok holds; it returns whether it did within the limit.
func (w *World) RunUntil(limit time.Duration, ok func() bool) bool {
	for end := w.now.Add(limit); w.now.Before(end); w.Run(50 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// note mixes something into the trace.
func (w *World) note(n *Node, what any) {
	h := fnv.New64a()
	fmt.Fprint(h, w.trace, w.now.UnixNano(), n.id, fmt.Sprintf("%T", what))
	w.trace = h.Sum64()
}

// Trace returns a digest of all that happened: equal seeds give equal traces.
func (w *World) Trace() uint64 { return w.trace }

// event is something planned. Equal times are decided by the order of planning.
type event struct {
	at  time.Time
	seq uint64
	f   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *events) Push(x any) { *q = append(*q, x.(event)) }

// Pop implements heap.Interface.
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}
