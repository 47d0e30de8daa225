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
	pathIDs  = "/gossip/ids"
	pathGet  = "/gossip/get"
	pathPush = "/gossip/push"
)

const (
	wireVersion = 1
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
	Marks   []mark         `json:"marks"`
}

// syncTell answers: what I have that differs, and the rows that you lack.
type syncTell struct {
	Version uint8            `json:"v"`
	Node    perigee.NodeID   `json:"node"`
	Now     int64            `json:"now"` // Unix milliseconds
	Root    perigee.Digest   `json:"root"`
	Sums    []byte           `json:"sums,omitempty"` // the 256 bucket digests, when the roots differ
	Rows    [][]byte         `json:"rows,omitempty"`
	Want    []perigee.NodeID `json:"want,omitempty"` // nodes whose rows you know better
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
	Spread  bool     `json:"spread,omitempty"` // pass on what is new to you
}

// pushTell says which of the records are on the receiver's disk now.
type pushTell struct {
	Held []byte `json:"held"`
}

// message is one of the types above.
type message interface {
	check() error
}

func encode(m message) ([]byte, error) {
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
func decode(b []byte, m message) error {
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

func (m *syncAsk) check() error {
	if len(m.Marks) > maxNodes {
		return errTooMany
	}
	return checkVersion(m.Version)
}

func (m *syncTell) check() error {
	if len(m.Rows) > maxItems || len(m.Want) > maxNodes {
		return errTooMany
	}
	if n := len(m.Sums); n != 0 && n != buckets*len(perigee.Digest{}) {
		return fmt.Errorf("%d bytes of bucket digests", n)
	}
	return checkVersion(m.Version)
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
	return checkVersion(m.Version)
}

func (m *pushTell) check() error {
	if len(m.Held)%len(perigee.Digest{}) != 0 || len(m.Held)/len(perigee.Digest{}) > maxItems {
		return errTooMany
	}
	return nil
}
