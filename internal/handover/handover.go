// Package handover lets a new process take over from a running one without a moment in which nobody
// answers: it starts the successor, passes it the sockets, and steers the packets of QUIC.
//
// The two talk over a pair of Unix sockets, one line of JSON a word:
//
//	predecessor                               successor
//	offer, with copies of the TCP sockets ──► reads its settings
//	                                      ◄── prepared
//	gives up what only one may have
//	go ──────────────────────────────────────► opens it, and becomes ready
//	                                      ◄── ready
//	ends its own work, and exits (the end of the connection tells)
//
// UDP sockets are different: a packet belongs to the process that has its connection. Each process has
// a socket of its own on the port, and the kernel chooses by the connection id, whose first four bytes
// are the process's mark (Steer).
//
// It knows nothing of what a node does meanwhile, and starts no goroutine but the one that waits for the child.
package handover

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// envFD tells a successor which descriptor leads to its predecessor.
const envFD = "PERIGEE_PREDECESSOR_FD"

// MarkSize is the length of a process's mark in its connection ids.
const MarkSize = 4

// Mark begins all connection ids of a process.
type Mark [MarkSize]byte

// NewMark makes one by chance.
func NewMark() (m Mark) {
	_, _ = rand.Read(m[:]) // never fails
	return m
}

// Offer is what a predecessor passes on.
type Offer struct {
	Mark    Mark   `json:"mark"`    // of the predecessor
	Own     Mark   `json:"own"`     // that the successor is to use
	Trouble string `json:"trouble"` // why another successor failed; "" = none did
}

// word is one line between the two.
type word struct {
	Offer   *Offer   `json:"offer,omitempty"`
	Sockets []string `json:"sockets,omitempty"` // names, in the order of the descriptors
	Is      string   `json:"is,omitempty"`
}

const (
	isPrepared = "prepared"
	isGo       = "go"
	isReady    = "ready"
)

// maxSockets and maxWord bound the first message.
const (
	maxSockets = 16
	maxWord    = 4 << 10
)

// line is one end of the pair.
type line struct {
	conn *net.UnixConn
	dec  *json.Decoder
}

func newLine(conn *net.UnixConn) *line { return &line{conn, json.NewDecoder(conn)} }

func (l *line) say(w word) error { return json.NewEncoder(l.conn).Encode(w) }

// hear waits for a word, at most for d (0 = for ever).
func (l *line) hear(is string, d time.Duration) error {
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	if err := l.conn.SetReadDeadline(until); err != nil {
		return err
	}
	var w word
	switch err := l.dec.Decode(&w); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it did not say %q within %v", is, d)
	case err != nil:
		return fmt.Errorf("it ended before it said %q: %w", is, err)
	case w.Is != is:
		return fmt.Errorf("it said %q and not %q", w.Is, is)
	}
	return nil
}

// pair makes the two ends: one for this process, and a file for the child.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	own, err := unixConn(os.NewFile(uintptr(fds[0]), "successor"))
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return own, os.NewFile(uintptr(fds[1]), "predecessor"), nil
}

func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a Unix socket")
	}
	return u, nil
}
