package gossip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"

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

// log is the append-only file of signed records. What append returned without an error is there
// after any crash. It is not safe for concurrent use; the writer's lock guards it.
type log struct {
	fs   vfs.FS
	dir  string
	size int64 // of the part that is whole and synced
	// dirty is set when the file may hold something beyond or other than that part. The next append
	// then cuts it off or, where that fails, writes the whole file anew from kept.
	dirty bool
	kept  func() [][]byte // all records that belong into the file
}

// damage is what openLog found wrong.
type damage struct {
	Skipped    int   // stretches of bytes in the middle that were no entry
	Bytes      int64 // in them
	Torn       int64 // bytes after the last good entry, as a crash while writing leaves them
	Quarantine error // the bytes could not be kept in state.log.bad
}

func (d damage) found() bool { return d.Skipped > 0 || d.Torn > 0 }

// openLog reads the log of a directory, making both where they are missing. kept must return all
// records that the log shall hold, whenever append is called. The records returned are whole, by
// their checksums; whether they are true is for the caller to verify.
func openLog(fsys vfs.FS, dir string, kept func() [][]byte) (*log, [][]byte, damage, error) {
	l := &log{fs: fsys, dir: dir, kept: kept}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, nil, damage{}, fmt.Errorf("make state directory: %w", err)
	}
	b, err := vfs.ReadFile(fsys, l.path(), maxLogFile)
	switch {
	case vfs.NotExist(err):
		l.dirty = true
		return l, nil, damage{}, nil
	case err != nil:
		return nil, nil, damage{}, fmt.Errorf("read state log: %w: if the disk can't be read, move %s away and start again: the node then fetches the state from its peers", err, l.path())
	}
	records, bad, d := scanLog(b)
	l.size = int64(len(b))
	if d.found() {
		l.dirty = true
		d.Quarantine = l.quarantine(bad)
	}
	return l, records, d, nil
}

func (l *log) path() string { return filepath.Join(l.dir, logName) }

// scanLog splits the bytes of a log into its entries. Bytes that are no entry are skipped up to the
// next place where one begins, and returned.
func scanLog(b []byte) (records [][]byte, bad []byte, d damage) {
	at := 0
	if bytes.HasPrefix(b, []byte(logMagic)) {
		at = len(logMagic)
	}
	gap := at // start of the bytes not understood
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
	if len(b) > 0 && !bytes.HasPrefix(b, []byte(logMagic)) && d.Skipped == 0 && d.Torn == 0 {
		d.Skipped = 1 // the magic is missing, and nothing stands in its place
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
		if err := l.rewrite(records); err != nil {
			return fmt.Errorf("write state log: %w", err)
		}
		return nil
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

// rewrite replaces the file by one that holds what is kept, and the given records.
func (l *log) rewrite(records [][]byte) error {
	b := []byte(logMagic)
	for _, rec := range append(l.kept(), records...) {
		b = appendEntry(b, rec)
	}
	if err := vfs.Replace(l.fs, l.path(), b); err != nil {
		return err
	}
	l.size, l.dirty = int64(len(b)), false
	return nil
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
