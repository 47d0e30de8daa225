package gossip

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/vfs"
)

const (
	snapName  = "state.snap"
	snapMagic = "PGSNP\x00\x00\x01"
	snapHead  = len(snapMagic) + sha256.Size // and the seal

	// The log is folded into a new snapshot when it is larger than this and than an eighth of the old one:
	// what a start has to verify stays small beside what it has to read, and each record is written about
	// eight times in its life.
	foldLog   = 256 << 10
	foldShare = 8
)

// sealKey derives the key of the seals from the node's own. Whoever can read one can read the other.
func sealKey(node ed25519.PrivateKey) []byte {
	d := digest.Sum(append([]byte("perigee state snapshot v1\x00"), node.Seed()...))
	return d[:]
}

// seal returns the proof that this node wrote the entries of a snapshot, and so had verified them.
func (l *log) seal(entries []byte) []byte {
	mac := hmac.New(sha256.New, l.key)
	mac.Write(entries)
	return mac.Sum(nil)
}

// readSnapshot returns the records of the snapshot, and the bytes of it that were none.
func (l *log) readSnapshot() (f found, bad []byte, err error) {
	b, err := readWhole(l.fs, l.snapPath())
	switch {
	case vfs.NotExist(err):
		return f, nil, nil
	case err != nil:
		return f, nil, fmt.Errorf("read snapshot of the state: %w", err)
	}
	l.snap = int64(len(b))
	if l.sealed(b) {
		f.sealed, bad, f.damage = scan(b[snapHead:])
		return f, bad, nil
	}
	f.records, bad, f.damage = scan(b[min(snapHead, len(b)):])
	f.Unsealed = true
	return f, bad, nil
}

func (l *log) sealed(b []byte) bool {
	return len(b) >= snapHead && bytes.HasPrefix(b, []byte(snapMagic)) && hmac.Equal(b[len(snapMagic):snapHead], l.seal(b[snapHead:]))
}

// fold writes a snapshot of what is verified and of the given records, and a log of the others. When it
// returns nil the records are on disk, whatever became of the log.
func (l *log) fold(records [][]byte) error {
	verified, others := l.kept()
	b := make([]byte, snapHead, snapHead+1<<16)
	for _, rec := range append(verified, records...) {
		b = appendEntry(b, rec)
	}
	copy(b, snapMagic)
	copy(b[len(snapMagic):], l.seal(b[snapHead:]))
	if err := vfs.Replace(l.fs, l.snapPath(), b); err != nil {
		return fmt.Errorf("write snapshot of the state: %w", err)
	}
	l.snap, l.idle = int64(len(b)), 0
	b = []byte(logMagic)
	for _, rec := range others {
		b = appendEntry(b, rec)
	}
	l.dirty = vfs.Replace(l.fs, l.path(), b) != nil
	l.size, l.base = int64(len(b)), int64(len(b))
	return nil
}

// foldIfLong folds a log that has become long, or files that hold much that was collected. A fold that fails is tried again when the log is longer still.
func (l *log) foldIfLong() error {
	long := l.size - l.base + l.idle
	if l.dirty || long <= max(l.long, l.snap/foldShare, l.wait) {
		return nil
	}
	if err := l.fold(nil); err != nil {
		l.wait = 2 * long
		return err
	}
	l.wait = 0
	return nil
}

func (l *log) snapPath() string { return filepath.Join(l.dir, snapName) }
