package simdisk

import (
	"io/fs"
	"path/filepath"
	"time"
)

// info describes an inode as it was at one moment.
type info struct {
	name string
	size int64
	node *inode
}

func describe(name string, n *inode) info {
	return info{filepath.Base(name), int64(len(n.data)), n}
}

func (i info) Name() string     { return i.name }
func (i info) Size() int64      { return i.size }
func (info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool      { return i.node.dir }
func (i info) Sys() any         { return i.node } // by which vfs.SameFile tells files apart

func (i info) Mode() fs.FileMode {
	if i.node.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
