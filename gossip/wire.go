package gossip

import (
	"errors"
	"fmt"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// The paths of the control protocol. Each takes a POST with one message and answers with one.
const (
	pathSync = "/gossip/sync"
	pathRows = "/gossip/rows"
	pathIDs  = "/gossip/ids"
	pathGet  = "/gossip/get"
	pathPush = "/gossip/push"
)

const (
	wireVersion = 2
	// maxMessage bounds any message in either direction; batches are cut at maxBatch, so that one
	// more record or row still fits.
	maxMessage = 8 << 20
	maxBatch   = 4 << 20
	maxItems   = 1024 // records of one message, and rows
	maxIDs     = 64 << 10
	maxNodes   = 4096 // of a cluster
	maxRowSize = 256 << 10
)

// mark says how far a node's row is known.
type mark struct {
	_           struct{} `cbor:",toarray"`
	Node        perigee.NodeID
	Incarnation uint64
	Seq         uint64
}

func markOf(r *perigee.Row) mark { return mark{Node: r.Node, Incarnation: r.Incarnation, Seq: r.Seq} }

// newer reports whether m is about a later row than old.
func (m mark) newer(old mark) bool {
	return m.Incarnation > old.Incarnation || m.Incarnation == old.Incarnation && m.Seq > old.Seq
}

// syncAsk opens an exchange: what I have.
type syncAsk struct {
	Version uint8          `json:"v"`
	Root    perigee.Digest `json:"root"`
	Rows    perigee.Digest `json:"rows"` // of the marks of all rows
}

// syncTell answers: what I have that differs.
type syncTell struct {
	Version uint8          `json:"v"`
	Node    perigee.NodeID `json:"node"`
	Now     int64          `json:"now"` // Unix milliseconds
	Root    perigee.Digest `json:"root"`
	Sums    []byte         `json:"sums,omitempty"`  // the 256 bucket digests, when the roots differ
	Marks   []mark         `json:"marks,omitempty"` // of all rows, when their digests differ
}

// rowsAsk brings rows and asks for those of some nodes.
type rowsAsk struct {
	Version uint8            `json:"v"`
	Nodes   []perigee.NodeID `json:"nodes,omitempty"`
	Rows    [][]byte         `json:"rows,omitempty"`
}

// rowsTell has some of the rows asked for; the next comparison brings the others.
type rowsTell struct {
	Rows [][]byte `json:"rows"`
}

// idsAsk asks for the identities of the records in some buckets.
type idsAsk struct {
	Version uint8  `json:"v"`
	Buckets []byte `json:"buckets"` // their numbers
}

// idsTell has one string of identities per bucket asked for, in that order. It may be shorter than
// the question, when the rest would not fit.
type idsTell struct {
	IDs [][]byte `json:"ids"`
}

// getAsk asks for records.
type getAsk struct {
	Version uint8  `json:"v"`
	IDs     []byte `json:"ids"`
}

// getTell has some of the records asked for; those that did not fit are asked for again.
type getTell struct {
	Records [][]byte `json:"records"`
}

// pushAsk brings records and rows.
type pushAsk struct {
	Version uint8    `json:"v"`
	Records [][]byte `json:"records,omitempty"`
	Rows    [][]byte `json:"rows,omitempty"`
	Reach   Reach    `json:"reach,omitempty"` // how far to pass on what is new to you
}

// pushTell says which of the records are on the receiver's disk now.
type pushTell struct {
	Held []byte `json:"held"`
}

// Message is one of the types above.
type Message interface {
	check() error
}

// pathOf returns where a question is posted.
func pathOf(ask Message) string {
	switch ask.(type) {
	case *syncAsk:
		return pathSync
	case *rowsAsk:
		return pathRows
	case *idsAsk:
		return pathIDs
	case *getAsk:
		return pathGet
	}
	return pathPush
}

// newAsk and newTell return empty messages of the type that a path takes and answers with; nil when
// there is no such path.
func newAsk(path string) Message {
	switch path {
	case pathSync:
		return &syncAsk{}
	case pathRows:
		return &rowsAsk{}
	case pathIDs:
		return &idsAsk{}
	case pathGet:
		return &getAsk{}
	case pathPush:
		return &pushAsk{}
	}
	return nil
}

func newTell(path string) Message {
	switch path {
	case pathSync:
		return &syncTell{}
	case pathRows:
		return &rowsTell{}
	case pathIDs:
		return &idsTell{}
	case pathGet:
		return &getTell{}
	}
	return &pushTell{}
}

// Size returns the length of a message on the wire, in bytes, without what carries it.
func Size(m Message) int {
	b, _ := encode(m)
	return len(b)
}

func encode(m Message) ([]byte, error) {
	b, err := record.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	if len(b) > maxMessage {
		return nil, fmt.Errorf("encode %T: %d bytes, the limit is %d", m, len(b), maxMessage)
	}
	return b, nil
}

// decode reads a message and checks its bounds.
func decode(b []byte, m Message) error {
	if len(b) > maxMessage {
		return fmt.Errorf("decode %T: %d bytes, the limit is %d", m, len(b), maxMessage)
	}
	if err := record.Unmarshal(b, m); err != nil {
		return fmt.Errorf("decode %T: %w", m, err)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("decode %T: %w", m, err)
	}
	return nil
}

var errTooMany = errors.New("a list is longer than the protocol allows")

func checkVersion(v uint8) error {
	if v != wireVersion {
		return fmt.Errorf("protocol version %d, this release speaks %d", v, wireVersion)
	}
	return nil
}

func (m *syncAsk) check() error { return checkVersion(m.Version) }

func (m *syncTell) check() error {
	if len(m.Marks) > maxNodes {
		return errTooMany
	}
	if n := len(m.Sums); n != 0 && n != buckets*len(perigee.Digest{}) {
		return fmt.Errorf("%d bytes of bucket digests", n)
	}
	return checkVersion(m.Version)
}

func (m *rowsAsk) check() error {
	if len(m.Nodes) > maxNodes || len(m.Rows) > maxItems {
		return errTooMany
	}
	return checkVersion(m.Version)
}

func (m *rowsTell) check() error {
	if len(m.Rows) > maxItems {
		return errTooMany
	}
	return nil
}

func (m *idsAsk) check() error {
	if len(m.Buckets) > buckets {
		return errTooMany
	}
	return checkVersion(m.Version)
}

func (m *idsTell) check() error {
	if len(m.IDs) > buckets {
		return errTooMany
	}
	total := 0
	for _, b := range m.IDs {
		if len(b)%len(perigee.Digest{}) != 0 {
			return fmt.Errorf("identities of %d bytes", len(b))
		}
		total += len(b) / len(perigee.Digest{})
	}
	if total > maxIDs {
		return errTooMany
	}
	return nil
}

func (m *getAsk) check() error {
	if len(m.IDs)%len(perigee.Digest{}) != 0 {
		return fmt.Errorf("identities of %d bytes", len(m.IDs))
	}
	if len(m.IDs)/len(perigee.Digest{}) > maxItems {
		return errTooMany
	}
	return checkVersion(m.Version)
}

func (m *getTell) check() error {
	if len(m.Records) > maxItems {
		return errTooMany
	}
	return nil
}

func (m *pushAsk) check() error {
	if len(m.Records) > maxItems || len(m.Rows) > maxItems {
		return errTooMany
	}
	if m.Reach > ReachAll {
		return fmt.Errorf("reach %d", m.Reach)
	}
	return checkVersion(m.Version)
}

func (m *pushTell) check() error {
	if len(m.Held)%len(perigee.Digest{}) != 0 || len(m.Held)/len(perigee.Digest{}) > maxItems {
		return errTooMany
	}
	return nil
}

// NewPush returns the message that brings records and rows.
func NewPush(records, rows [][]byte, reach Reach) Message {
	return &pushAsk{Version: wireVersion, Records: records, Rows: rows, Reach: reach}
}
