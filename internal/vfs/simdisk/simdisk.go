// Package simdisk is a disk in memory whose power can fail before any step. It keeps what was synced apart
// from what was only written, for the contents of files and for the names in directories, so that a test
// finds after the cut what a real disk may leave: files whose last writes are there in part, sectors of them
// in any order, renames that never happened, names without their bytes. It is for tests only.
package simdisk

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/perigee-edge/perigee/internal/vfs"
)

// ErrPower is the error of every step after the power failed.
var ErrPower = errors.New("power is off")

// Disk is a vfs.FS in memory. Its exported fields are set before it is used, or while nobody uses it.
type Disk struct {
	CutAt int                         // the power fails instead of this step; 0 = never
	Room  int64                       // bytes that files may have together; 0 = no limit
	Fail  func(op, name string) error // an error for a step: open, read, create, append, write, sync, truncate, close, rename, remove, mkdir, syncdir

	mu      sync.Mutex // guards what follows, and all inodes
	steps   int        // changes so far
	names   map[string]*inode
	durable map[string]*inode
	ops     []op // changes of names that are not durable, in order
}

// inode is a file or a directory. Files are written at their end only, so that what is durable of one is a
// beginning of its data and what was cut off of that.
type inode struct {
	dir  bool
	data []byte
	keep int    // so much of data is durable
	lost []byte // follows data[:keep] in what is durable
}

// op is a change of names: each goes away, or becomes the inode.
type op struct {
	names []string
	nodes []*inode // nil = the name goes
}

// New returns an empty disk.
func New() *Disk {
	root := &inode{dir: true}
	return &Disk{names: map[string]*inode{"/": root}, durable: map[string]*inode{"/": root}}
}

// Steps returns how many steps there were.
func (d *Disk) Steps() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.steps
}

// step counts a change and says whether it may happen. The caller holds mu.
func (d *Disk) step(op, name string) error {
	d.steps++
	if d.CutAt > 0 && d.steps >= d.CutAt {
		return ErrPower
	}
	return d.fault(op, name)
}

func (d *Disk) fault(op, name string) error {
	if d.Fail == nil {
		return nil
	}
	if err := d.Fail(op, name); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func absent(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// file returns the inode of a file. The caller holds mu.
func (d *Disk) file(op, name string) (*inode, error) {
	n := d.names[name]
	switch {
	case n == nil:
		return nil, absent(op, name)
	case n.dir:
		return nil, &fs.PathError{Op: op, Path: name, Err: syscall.EISDIR}
	}
	return n, nil
}

// change applies a change of names to what programs see. The caller holds mu.
func (d *Disk) change(o op) {
	o.apply(d.names)
	d.ops = append(d.ops, o)
}

func (o op) apply(names map[string]*inode) {
	for i, name := range o.names {
		if o.nodes[i] == nil {
			delete(names, name)
		} else {
			names[name] = o.nodes[i]
		}
	}
}

// Open implements vfs.FS.
func (d *Disk) Open(name string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fault("open", name); err != nil {
		return nil, err
	}
	n, err := d.file("open", name)
	if err != nil {
		return nil, err
	}
	return &handle{disk: d, node: n, name: name}, nil
}

// Create implements vfs.FS.
func (d *Disk) Create(name string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("create", name); err != nil {
		return nil, err
	}
	if p := d.names[filepath.Dir(name)]; p == nil || !p.dir {
		return nil, absent("create", name)
	}
	if n := d.names[name]; n != nil {
		if n.dir {
			return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EISDIR}
		}
		n.truncate(0)
		return &handle{disk: d, node: n, name: name, writes: true}, nil
	}
	n := &inode{}
	d.change(op{[]string{name}, []*inode{n}})
	return &handle{disk: d, node: n, name: name, writes: true}, nil
}

// Append implements vfs.FS.
func (d *Disk) Append(name string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("append", name); err != nil {
		return nil, err
	}
	n, err := d.file("append", name)
	if err != nil {
		return nil, err
	}
	return &handle{disk: d, node: n, name: name, writes: true}, nil
}

// Rename implements vfs.FS, for files.
func (d *Disk) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("rename", newname); err != nil {
		return err
	}
	n, err := d.file("rename", oldname)
	if err != nil {
		return err
	}
	if p := d.names[filepath.Dir(newname)]; p == nil || !p.dir {
		return absent("rename", newname)
	}
	d.change(op{[]string{oldname, newname}, []*inode{nil, n}})
	return nil
}

// Remove implements vfs.FS, for files.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("remove", name); err != nil {
		return err
	}
	if _, err := d.file("remove", name); err != nil {
		return err
	}
	d.change(op{[]string{name}, []*inode{nil}})
	return nil
}

// MkdirAll implements vfs.FS.
func (d *Disk) MkdirAll(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[dir]; n != nil && n.dir {
		return nil
	}
	for at, rest := "/", strings.TrimPrefix(dir, "/"); rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		at = filepath.Join(at, part)
		if d.names[at] != nil {
			continue
		}
		if err := d.step("mkdir", at); err != nil {
			return err
		}
		d.change(op{[]string{at}, []*inode{{dir: true}}})
		if err := d.step("syncdir", filepath.Dir(at)); err != nil {
			return err
		}
		d.syncDir(filepath.Dir(at))
	}
	return nil
}

// ReadDir implements vfs.FS.
func (d *Disk) ReadDir(dir string) (list []fs.DirEntry, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fault("readdir", dir); err != nil {
		return nil, err
	}
	if n := d.names[dir]; n == nil || !n.dir {
		return nil, absent("readdir", dir)
	}
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		if filepath.Dir(name) == dir && name != dir {
			list = append(list, fs.FileInfoToDirEntry(describe(name, d.names[name])))
		}
	}
	return list, nil
}

// Stat implements vfs.FS.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	if n == nil {
		return nil, absent("stat", name)
	}
	return describe(name, n), nil
}

// SyncDir implements vfs.FS.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("syncdir", dir); err != nil {
		return err
	}
	if n := d.names[dir]; n == nil || !n.dir {
		return absent("syncdir", dir)
	}
	d.syncDir(dir)
	return nil
}

// syncDir makes the changes of a directory durable, and those that they rest on: earlier ones of the
// directories that renames tie to it. The caller holds mu.
func (d *Disk) syncDir(dir string) {
	dirs := map[string]bool{dir: true}
	var wait []op
	done := make([]bool, len(d.ops))
	for i := len(d.ops) - 1; i >= 0; i-- {
		done[i] = slices.ContainsFunc(d.ops[i].names, func(name string) bool { return dirs[filepath.Dir(name)] })
		for _, name := range d.ops[i].names {
			if done[i] {
				dirs[filepath.Dir(name)] = true
			}
		}
	}
	for i, o := range d.ops {
		if done[i] {
			o.apply(d.durable)
		} else {
			wait = append(wait, o)
		}
	}
	d.ops = wait
}

// Free implements vfs.FS.
func (d *Disk) Free(string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Room == 0 {
		return math.MaxInt64, nil
	}
	return max(0, d.Room-d.used()), nil
}

func (d *Disk) used() (n int64) {
	for _, f := range d.names {
		n += int64(len(f.data))
	}
	return n
}

// SetRoom changes Room while the disk is used.
func (d *Disk) SetRoom(room int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Room = room
}

// SetFail changes Fail while the disk is used.
func (d *Disk) SetFail(fail func(op, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Fail = fail
}

// Files returns the names of all files, sorted.
func (d *Disk) Files() (list []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, n := range d.names {
		if !n.dir {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Get returns the content of a file; nil = there is none.
func (d *Disk) Get(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[name]; n != nil {
		return slices.Clone(n.data)
	}
	return nil
}

// Put makes a file have a content that is on the disk for good, and its directories with it.
func (d *Disk) Put(name string, content []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dir := filepath.Dir(name); d.names[dir] == nil; dir = filepath.Dir(dir) {
		n := &inode{dir: true}
		d.names[dir], d.durable[dir] = n, n
	}
	n := &inode{data: slices.Clone(content), keep: len(content)}
	d.names[name], d.durable[name] = n, n
}

// Flip changes one bit of a file behind everybody's back.
func (d *Disk) Flip(name string, bit int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name].data[bit/8] ^= 1 << (bit % 8)
}

type handle struct {
	disk   *Disk
	node   *inode
	name   string
	writes bool
	at     int64 // where Read goes on
}

// Read implements io.Reader.
func (h *handle) Read(p []byte) (int, error) {
	n, err := h.ReadAt(p, h.at)
	h.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.fault("read", h.name); err != nil {
		return 0, err
	}
	if off >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Write implements io.Writer. It may write a part before the power fails or the disk is full, as real
// ones do.
func (h *handle) Write(b []byte) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if !h.writes {
		return 0, &fs.PathError{Op: "write", Path: h.name, Err: syscall.EBADF}
	}
	if err := h.disk.step("write", h.name); err != nil {
		n := len(b) / 2
		h.node.data = append(h.node.data, b[:n]...)
		return n, err
	}
	if free := h.disk.Room - h.disk.used(); h.disk.Room > 0 && int64(len(b)) > free {
		n := max(0, free)
		h.node.data = append(h.node.data, b[:n]...)
		return int(n), &fs.PathError{Op: "write", Path: h.name, Err: syscall.ENOSPC}
	}
	h.node.data = append(h.node.data, b...)
	return len(b), nil
}

// Sync implements vfs.File.
func (h *handle) Sync() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.step("sync", h.name); err != nil {
		return err
	}
	h.node.keep, h.node.lost = len(h.node.data), nil
	return nil
}

// Truncate implements vfs.File.
func (h *handle) Truncate(size int64) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.step("truncate", h.name); err != nil {
		return err
	}
	h.node.truncate(int(size))
	return nil
}

func (n *inode) truncate(size int) {
	size = min(size, len(n.data))
	if size < n.keep {
		n.lost = append(slices.Clone(n.data[size:n.keep]), n.lost...)
		n.keep = size
	}
	n.data = n.data[:size:size]
}

// Stat implements vfs.File.
func (h *handle) Stat() (fs.FileInfo, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return describe(h.name, h.node), nil
}

// Close implements vfs.File.
func (h *handle) Close() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.writes {
		return h.disk.step("close", h.name)
	}
	return nil
}
