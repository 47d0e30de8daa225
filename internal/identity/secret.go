package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSecret bounds a file of secrets, so that a wrong path costs little.
const maxSecret = 64 << 10

// SaveSecret writes b to a new file that only its owner can read (mode 0600). The file appears
// whole or not at all, also when the machine loses power. An existing file is never overwritten;
// the error then wraps fs.ErrExist.
func SaveSecret(path string, b []byte) error {
	if len(b) > maxSecret {
		return fmt.Errorf("save %s: %d bytes, the limit is %d", path, len(b), maxSecret)
	}
	dir := filepath.Dir(path)
	tmp, err := writeTemp(dir, filepath.Base(path), b)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	err = publish(os.Link, tmp, path)
	if rmErr := os.Remove(tmp); err == nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = rmErr
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("save %s: the file exists, and secrets are never overwritten: move it away first: %w", path, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

// LoadSecret reads a file of at most 64 KiB that nobody but its owner may read or write.
func LoadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("load secret: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("load %s: not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("load %s: others than its owner can use it (mode %04o): run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("load secret: %w", err)
	}
	if len(b) > maxSecret {
		return nil, fmt.Errorf("load %s: more than %d bytes: not a file of ours", path, maxSecret)
	}
	return b, nil
}

func writeTemp(dir, base string, b []byte) (name string, err error) {
	f, err := os.CreateTemp(dir, "."+base+"-*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o600); err != nil {
		return "", err
	}
	if _, err := f.Write(b); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

// publish gives tmp its final name unless that is taken. A hard link does both in one step; where
// the file system has none, there is a moment between the look and the rename.
func publish(link func(from, to string) error, tmp, path string) error {
	err := link(tmp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return fs.ErrExist
	}
	return os.Rename(tmp, path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
