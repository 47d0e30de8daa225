package gossip

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FS is what gossip needs of a file system. It is small, so that tests can cut the power at every
// step: what was not synced may be lost, in part or whole, and a name is durable only after SyncDir.
type FS interface {
	// ReadFile returns a whole file; the error is fs.ErrNotExist when there is none.
	ReadFile(name string) ([]byte, error)
	// Create opens an empty file for writing, and empties one that exists.
	Create(name string) (File, error)
	// Append opens a file that exists for writing at its end.
	Append(name string) (File, error)
	// Rename replaces newname by oldname at once.
	Rename(oldname, newname string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// MkdirAll makes a directory and its parents, for this user only.
	MkdirAll(dir string) error
}

// File is an open file for writing.
type File interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

// osFS is the real file system.
type osFS struct{}

func (osFS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

func (osFS) Create(name string) (File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
}

func (osFS) Append(name string) (File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0o600)
}

func (osFS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

func (osFS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replaceFile writes a file so that after a crash either the old or the new content is there.
func replaceFile(fsys FS, name string, content []byte) error {
	temp := name + ".tmp"
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
