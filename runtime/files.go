package runtime

import (
	"io/fs"
	"syscall"
)

// maxOpens is how often one request may open or look up a file of its bundle: each costs the host
// memory until the request ends.
const maxOpens = 10_000

// boundedFS is the bundle's files as one request sees them.
type boundedFS struct {
	fs.FS
	left int
}

// Open opens a file, unless the request has opened too many.
func (b *boundedFS) Open(name string) (fs.File, error) {
	if b.left == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EMFILE}
	}
	b.left--
	return b.FS.Open(name)
}
