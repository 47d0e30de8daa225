package bundle

import (
	"io"
	"io/fs"
	"time"
)

// files is the read-only file system of a bundle. Its files can be read at an offset and seek, as
// http.FileServerFS needs it; they have no modification time.
type files struct {
	nodes   map[string]*node
	content io.ReaderAt // the whole archive
}

// Open implements fs.FS.
func (f *files) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	n, ok := f.nodes[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if n.dir {
		return &dir{node: n}, nil
	}
	return &file{node: n, SectionReader: io.NewSectionReader(f.content, n.offset, n.size)}, nil
}

// file is an open file: its reading methods are those of the section.
type file struct {
	node *node
	*io.SectionReader
}

func (f *file) Stat() (fs.FileInfo, error) { return info{f.node}, nil }
func (f *file) Close() error               { return nil }

// dir is an open directory.
type dir struct {
	node *node
	next int
}

func (d *dir) Stat() (fs.FileInfo, error) { return info{d.node}, nil }
func (d *dir) Close() error               { return nil }

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.node.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := d.node.children[d.next:]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	d.next += len(rest)
	entries := make([]fs.DirEntry, len(rest))
	for i, child := range rest {
		entries[i] = fs.FileInfoToDirEntry(info{child})
	}
	return entries, nil
}

// info describes a node.
type info struct{ node *node }

func (i info) Name() string     { return i.node.name }
func (i info) Size() int64      { return i.node.size }
func (info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool      { return i.node.dir }
func (info) Sys() any           { return nil }

func (i info) Mode() fs.FileMode {
	if i.node.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
