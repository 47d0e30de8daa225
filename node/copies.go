package node

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"github.com/perigee-edge/perigee/internal/digest"
)

// The small files that say who a node is can't be fetched from anybody, and a node must not end because a bit
// of one flipped. So each has a copy in copies/: the BLAKE3 digest of its content, 32 bytes, and the content.
// A file that is good by its own check is what holds, whatever the copy says, which then follows: people
// may replace files. One that is not comes back from its copy.

const (
	dirCopies = "copies"
	badSuffix = ".bad" // of a file that was replaced by its copy
	maxCopy   = 1 << 20
)

// readTwice reads files that belong together, and once more with their copies in their places if the
// first time fails. It returns the names of those that came back.
func (d Dir) readTwice(names []string, read func() error) (restored []string, err error) {
	if err = read(); err == nil {
		for _, name := range names {
			d.keepCopy(name)
		}
		return nil, nil
	}
	var undo []func()
	for _, name := range names {
		good, ok := d.readCopy(name)
		is, statErr := os.ReadFile(d.path(name))
		if !ok || statErr == nil && bytes.Equal(is, good) {
			continue
		}
		if statErr == nil {
			_ = writeFile(d.path(name+badSuffix), is) // for a person to look at
			undo = append(undo, func() { _ = writeFile(d.path(name), is) })
		} else {
			undo = append(undo, func() { _ = os.Remove(d.path(name)) })
		}
		if werr := writeFile(d.path(name), good); werr != nil {
			err = errors.Join(err, werr)
			break
		}
		restored = append(restored, name)
	}
	if len(restored) > 0 && read() == nil {
		return restored, nil
	}
	for _, f := range undo {
		f()
	}
	return nil, err
}

// keepCopy makes the copy of a file what the file is. A copy that can't be written is missing when it
// is needed, and no reason not to start.
func (d Dir) keepCopy(name string) {
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		_ = os.Remove(filepath.Join(d.path(dirCopies), name))
		return
	}
	if old, ok := d.readCopy(name); ok && bytes.Equal(old, b) || len(b) > maxCopy {
		return
	}
	sum := digest.Sum(b)
	if err := os.MkdirAll(d.path(dirCopies), 0o700); err == nil {
		_ = writeFile(filepath.Join(d.path(dirCopies), name), append(sum[:], b...))
	}
}

// readCopy returns the content of a copy that is whole.
func (d Dir) readCopy(name string) (content []byte, ok bool) {
	b, err := os.ReadFile(filepath.Join(d.path(dirCopies), name))
	sum := digest.Sum(nil)
	if err != nil || len(b) < len(sum) {
		return nil, false
	}
	sum = digest.Sum(b[len(sum):])
	return b[len(sum):], bytes.Equal(b[:len(sum)], sum[:])
}

// withSum appends a line with the digest of what a small file says.
func withSum(b []byte) []byte {
	sum := digest.Sum(b)
	return append(append(bytes.Clone(b), '\n'), hex.EncodeToString(sum[:])+"\n"...)
}

// unsum takes that line off, and reports whether the file is as it was written. One without the line, of a
// release that wrote none, is taken as it is.
func unsum(b []byte) (content []byte, whole bool) {
	const line = 2*32 + 2 // with both ends
	if at := len(b) - line; at >= 0 && b[at] == '\n' && b[len(b)-1] == '\n' {
		sum := digest.Sum(b[:at])
		if got, err := hex.DecodeString(string(b[at+1 : len(b)-1])); err == nil {
			return b[:at], bytes.Equal(got, sum[:])
		}
	}
	return b, true
}
