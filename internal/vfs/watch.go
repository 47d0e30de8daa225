package vfs

import (
	"errors"
	"syscall"
)

// NoRoom reports whether an error says that the disk, or this user's share of it, is full.
func NoRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// Watch returns fsys, and calls full, from the goroutine that meets it, with each error of a step that found
// no room.
func Watch(fsys FS, full func(error)) FS { return watched{fsys, full} }

type watched struct {
	FS
	full func(error)
}

func (w watched) saw(err error) error {
	if NoRoom(err) {
		w.full(err)
	}
	return err
}

func (w watched) file(f File, err error) (File, error) {
	if w.saw(err) != nil {
		return nil, err
	}
	return watchedFile{f, w}, nil
}

func (w watched) Create(name string) (File, error)     { return w.file(w.FS.Create(name)) }
func (w watched) Append(name string) (File, error)     { return w.file(w.FS.Append(name)) }
func (w watched) Rename(oldname, newname string) error { return w.saw(w.FS.Rename(oldname, newname)) }
func (w watched) MkdirAll(dir string) error            { return w.saw(w.FS.MkdirAll(dir)) }
func (w watched) SyncDir(dir string) error             { return w.saw(w.FS.SyncDir(dir)) }

type watchedFile struct {
	File
	w watched
}

func (f watchedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.w.saw(err)
}

func (f watchedFile) Sync() error  { return f.w.saw(f.File.Sync()) }
func (f watchedFile) Close() error { return f.w.saw(f.File.Close()) }
