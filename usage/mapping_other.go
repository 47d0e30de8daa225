//go:build !unix

package usage

import "os"

// openMapping returns a copy of a file, which sync writes back.
func openMapping(path string, size int) (memory, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	m := newCopied(path, size)
	if _, err := f.ReadAt(m.data(), 0); err != nil {
		f.Close()
		return nil, err
	}
	m.file = f
	return m, nil
}
