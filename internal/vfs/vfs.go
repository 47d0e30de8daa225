// Package vfs is the file system that a node's durable state goes through: the log of records, the store of
// bundles, the files that say who the node is. It is small, so that tests can put a disk in its place whose
// power fails between any two steps, that is full, or that returns errors (package simdisk).
//
// What holds for every FS: the contents of a file last once Sync returned, a name lasts once SyncDir of its
// directory returned, and Rename replaces at once. Nothing else lasts. Files and directories are for this
// user only. It starts no goroutine and may be used concurrently.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FS is a file system. Errors wrap those of package io/fs and syscall as the real one's do.
type FS interface {
	// Open opens a file for reading.
	Open(name string) (File, error)
	// Create opens an empty file for writing, and empties one that exists.
	Create(name string) (File, error)
	// Append opens a file that exists for writing at its end.
	Append(name string) (File, error)
	// Rename replaces newname by oldname at once.
	Rename(oldname, newname string) error
	// Remove removes a file.
	Remove(name string) error
	// MkdirAll makes a directory and its parents, and makes the names last that it had to make.
	MkdirAll(dir string) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(dir string) ([]fs.DirEntry, error)
	// Stat describes what has the name; links are not followed.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory last: those that came, and the lack of those that went.
	SyncDir(dir string) error
	// Free returns how many bytes this user may still write where dir is.
	Free(dir string) (int64, error)
}

// File is an open file. One that was opened for reading can't be written, and the other way round.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
	Close() error
}

// SameFile reports whether two descriptions are of one file, whatever its names.
func SameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) || a.Sys() != nil && a.Sys() == b.Sys()
}

// NotExist reports whether an error says that there is no such file.
func NotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// ReadFile returns a whole file, of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(b)) > limit:
		return nil, &fs.PathError{Op: "read", Path: name, Err: errTooLarge}
	}
	return b, nil
}

var errTooLarge = errors.New("the file is larger than such a file may be")

// Replace writes a file so that after a crash either the old or the new content is there, and the new one
// once it returned. One caller at a time may replace a name.
func Replace(fsys FS, name string, content []byte) error {
	temp := name + ".tmp"
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, remove(fsys, temp)) // a full disk needs the room
	}
	return fsys.SyncDir(filepath.Dir(name))
}

func remove(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil && !NotExist(err) {
		return err
	}
	return nil
}
