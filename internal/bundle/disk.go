package bundle

import (
	"io"
	"os"
)

// disk is what Store needs to write so that a power cut loses nothing it promised. Tests put one
// in its place that forgets what was not synced.
type disk interface {
	// create makes a new file, with a name that starts with prefix, in dir.
	create(dir, prefix string) (diskFile, error)
	// rename replaces to. It lasts once the directory of to is synced.
	rename(from, to string) error
	// syncDir makes renames and removals in dir last.
	syncDir(dir string) error
}

type diskFile interface {
	io.WriteCloser
	Name() string
	Sync() error // makes the contents last
}

type realDisk struct{}

func (realDisk) create(dir, prefix string) (diskFile, error) {
	return os.CreateTemp(dir, prefix+"-*")
}

func (realDisk) rename(from, to string) error { return os.Rename(from, to) }

func (realDisk) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
