package gossip

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"syscall"

	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

const (
	logName    = "state.log"
	badName    = "state.log.bad" // bytes that could not be read, for a person to look at
	logMagic   = "PGLOG\x00\x00\x01"
	entryHead  = 8       // length and checksum
	maxBadFile = 1 << 20 // of badName
	maxLogFile = 1 << 40 // no limit but sense: the state has one
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// log keeps signed records in two files: a snapshot, which is replaced as a whole, and the log of what came
// since, which is appended to. What append returned without an error is there after any crash. It is not
// safe for concurrent use; the writer's lock guards it.
type log struct {
	fs   vfs.FS
	dir  string
	key  []byte // of the snapshot's seal
	kept func() (verified, others [][]byte)

	long int64 // see foldLog
	snap int64 // size of the snapshot
	base int64 // of the log, when it was written last
	size int64 // of the part of the log that is whole and synced
	idle int64 // bytes of records in both that are in the set no more
	wait int64 // size that the log must have before it is folded again, after a failure
	// dirty is set when the files may hold something beyond or other than that part. The next append
	// then cuts it off or, where that fails, folds all that is kept into a new snapshot.
	dirty bool
}

// found is what openLog found: records, whole by their checksums, and damage.
type found struct {
	sealed  [][]byte // this node verified them before it wrote them
	records [][]byte // whether they are true is for the caller to verify
	damage
}

// damage is what is wrong with the files.
type damage struct {
	Skipped    int   // stretches of bytes in the middle that were no entry
	Bytes      int64 // in them
	Torn       int64 // bytes after the last good entry, as a crash while writing leaves them
	Unsealed   bool  // the snapshot is not as this node wrote it
	Quarantine error // the bytes could not be kept in state.log.bad
}

func (d damage) any() bool { return d.Skipped > 0 || d.Torn > 0 || d.Unsealed }

func (d damage) and(o damage) damage {
	return damage{d.Skipped + o.Skipped, d.Bytes + o.Bytes, d.Torn + o.Torn, d.Unsealed || o.Unsealed, cmp.Or(d.Quarantine, o.Quarantine)}
}

// openLog reads the log of a directory, making it where it is missing. key is this node's own secret. kept
// must return all records that the files shall hold, whenever append is called: those that this node
// verified, as it did those that are appended, and those that it could not.
func openLog(fsys vfs.FS, dir string, key []byte, kept func() (verified, others [][]byte)) (*log, found, error) {
	l := &log{fs: fsys, dir: dir, key: key, kept: kept, long: foldLog}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, found{}, fmt.Errorf("make state directory: %w", err)
	}
	f, badSnap, err := l.readSnapshot()
	if err != nil {
		return nil, found{}, err
	}
	b, err := readWhole(fsys, l.path())
	if err != nil && !vfs.NotExist(err) {
		return nil, found{}, fmt.Errorf("read state log: %w", err)
	}
	records, badLog, d := scanLog(b)
	f.records, f.damage = append(f.records, records...), f.damage.and(d)
	l.size, l.base, l.dirty = int64(len(b)), int64(len(logMagic)), err != nil || l.snap == 0 || f.damage.any()
	if bad := append(badSnap, badLog...); len(bad) > 0 {
		f.Quarantine = l.quarantine(bad)
	}
	return l, f, nil
}

func (l *log) path() string { return filepath.Join(l.dir, logName) }

// readBlock is the unit in which a file is read of which the disk has lost a part.
const readBlock = 4096

// readWhole reads a file. What the disk can't read comes as zeros, which are no entry.
func readWhole(fsys vfs.FS, name string) ([]byte, error) {
	b, err := vfs.ReadFile(fsys, name, maxLogFile)
	if !errors.Is(err, syscall.EIO) {
		return b, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b = make([]byte, info.Size())
	for at := 0; at < len(b); at += readBlock {
		block := b[at:min(at+readBlock, len(b))]
		if n, err := f.ReadAt(block, int64(at)); err != nil {
			clear(block[n:])
		}
	}
	return b, nil
}

// scanLog splits the bytes of a log into its entries. Bytes that are no entry are skipped up to the
// next place where one begins, and returned.
func scanLog(b []byte) (records [][]byte, bad []byte, d damage) {
	if bytes.HasPrefix(b, []byte(logMagic)) {
		return scan(b[len(logMagic):])
	}
	records, bad, d = scan(b)
	if len(b) > 0 && d.Skipped == 0 && d.Torn == 0 {
		d.Skipped = 1 // the magic is missing, and nothing stands in its place
	}
	return records, bad, d
}

func scan(b []byte) (records [][]byte, bad []byte, d damage) {
	at, gap := 0, 0 // gap: start of the bytes not understood
	for at < len(b) {
		rec := entryAt(b[at:])
		if rec == nil {
			at++
			continue
		}
		if gap < at {
			bad = append(bad, b[gap:at]...)
			d.Skipped++
			d.Bytes += int64(at - gap)
		}
		records = append(records, rec)
		at += entryHead + len(rec)
		gap = at
	}
	if gap < len(b) {
		bad = append(bad, b[gap:]...)
		d.Torn = int64(len(b) - gap)
	}
	return records, bad, d
}

// entryAt returns the record that begins at the start of b, or nil. The checksum covers the length,
// so that a changed length is noticed; the first byte of a record, a CBOR array of nine, spares
// most checksums while searching.
func entryAt(b []byte) []byte {
	if len(b) <= entryHead || b[entryHead] != 0x89 {
		return nil
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n == 0 || n > record.MaxSize || n > int64(len(b)-entryHead) {
		return nil
	}
	rec := b[entryHead : entryHead+n : entryHead+n]
	if checksum(b[:4], rec) != binary.BigEndian.Uint32(b[4:]) {
		return nil
	}
	return rec
}

func checksum(length, rec []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, rec)
}

func appendEntry(b, rec []byte) []byte {
	var head [entryHead]byte
	binary.BigEndian.PutUint32(head[:4], uint32(len(rec)))
	binary.BigEndian.PutUint32(head[4:], checksum(head[:4], rec))
	return append(append(b, head[:]...), rec...)
}

// append adds records, all or none, and returns when they are on disk. After an error the log is as
// before, and a later append may succeed, for example when the disk has room again.
func (l *log) append(records [][]byte) error {
	if l.dirty {
		return l.fold(records)
	}
	var b []byte
	for _, rec := range records {
		b = appendEntry(b, rec)
	}
	if err := l.write(b); err != nil {
		return fmt.Errorf("append to state log: %w", err)
	}
	l.size += int64(len(b))
	return nil
}

// write appends bytes and syncs. A file whose sync failed can't be trusted beyond what was synced
// before, so that part is cut off; when even this fails the next append rewrites the file.
func (l *log) write(b []byte) error {
	f, err := l.fs.Append(l.path())
	if err != nil {
		l.dirty = true
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		l.dirty = f.Truncate(l.size) != nil || f.Sync() != nil
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		l.dirty = true
		err = cerr
	}
	return err
}

// repair brings a damaged file in order without waiting for the next append.
func (l *log) repair() error {
	if !l.dirty {
		return nil
	}
	return l.append(nil)
}

// quarantine keeps bytes that were no entries, for a person to look at.
func (l *log) quarantine(bad []byte) error {
	name := filepath.Join(l.dir, badName)
	old, err := vfs.ReadFile(l.fs, name, math.MaxInt32)
	if err != nil && !vfs.NotExist(err) {
		return fmt.Errorf("read %s: %w", name, err)
	}
	all := append(old, bad...)
	if err := vfs.Replace(l.fs, name, all[max(0, len(all)-maxBadFile):]); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
