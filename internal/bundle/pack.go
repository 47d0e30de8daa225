package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// Archive is a packed bundle, in memory.
type Archive struct {
	Digest perigee.Digest
	Size   int64  // bytes
	Wasm   []byte // the module; part of the archive, not to be changed

	content []byte
}

// Open returns a new reader of the archive's bytes.
func (a *Archive) Open() io.ReadCloser { return io.NopCloser(bytes.NewReader(a.content)) }

// WriteTo writes the archive's bytes.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(a.content)
	return int64(n), err
}

// Pack makes the archive of a function from the files that its manifest names, below the directory
// of the manifest. The same contents give the same archive, on every machine. Symbolic links,
// devices, sockets and pipes are refused, never followed or read.
func Pack(dir string, m *perigee.Manifest) (*Archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", m.Name, err)
	}
	defer root.Close()
	p := packer{root: root}
	if err := p.pack(m); err != nil {
		return nil, fmt.Errorf("pack %s: %w", m.Name, err)
	}
	content := p.out.Bytes()
	return &Archive{
		Digest:  digest.Sum(content),
		Size:    int64(len(content)),
		Wasm:    content[blockSize : blockSize+p.wasm : blockSize+p.wasm],
		content: content,
	}, nil
}

type packer struct {
	root *os.Root
	out  bytes.Buffer
	wasm int64 // size of the module
}

// source is a file to be packed.
type source struct {
	path string // below the root
	name string // in the archive
	size int64
}

func (p *packer) pack(m *perigee.Manifest) error {
	sources, err := p.module(m)
	if err != nil {
		return err
	}
	if m.Files != "" {
		list, err := p.files(cleanPath(m.Files))
		if err != nil {
			return fmt.Errorf("files: %w", err)
		}
		sources = append(sources, list...)
	}
	total := int64(2 * blockSize)
	for _, s := range sources {
		total += blockSize + padded(s.size)
	}
	p.out.Grow(int(total) + bytes.MinRead) // Copy wants some room to find the end of a file
	for _, s := range sources {
		if err := p.write(s); err != nil {
			return err
		}
	}
	p.zeros(2 * blockSize)
	return nil
}

// module finds the Wasm file.
func (p *packer) module(m *perigee.Manifest) ([]source, error) {
	at := cleanPath(m.Wasm)
	info, err := p.root.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist) && m.Build != "":
		return nil, fmt.Errorf("wasm: there is no %s: run the build command of the manifest first (%s)", at, m.Build)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("wasm: there is no %s: build it first, or correct the path", at)
	case err != nil:
		return nil, fmt.Errorf("wasm: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("wasm: %s is %s: name a regular file", at, kindOf(info.Mode()))
	case info.Size() == 0:
		return nil, fmt.Errorf("wasm: %s is empty: build it again", at)
	case info.Size() > int64(MaxWasm):
		return nil, fmt.Errorf("wasm: %s has %d bytes: the most is %s; build without debug information (for Go: -ldflags='-s -w')", at, info.Size(), MaxWasm)
	}
	p.wasm = info.Size()
	return []source{{at, wasmEntry, info.Size()}}, nil
}

// files lists what is below the directory of static files, sorted as the archive needs it.
func (p *packer) files(dir string) ([]source, error) {
	info, err := p.root.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is %s: name a directory", dir, kindOf(info.Mode()))
	}
	var list []source
	err = fs.WalkDir(p.root.FS(), dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is %s: a bundle holds only regular files, so copy or remove it", at, kindOf(d.Type()))
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		list = append(list, source{at, filesPrefix + strings.TrimPrefix(at, dir+"/"), info.Size()})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b source) int { return strings.Compare(a.name, b.name) })
	t := newTree(Limits{})
	for _, s := range list {
		if err := t.add(s.name[len(filesPrefix):], 0, s.size); err != nil {
			return nil, fmt.Errorf("%s: %w", quote(s.path), err)
		}
	}
	return list, nil
}

// write appends one entry.
func (p *packer) write(s source) error {
	h, err := header(s.name, s.size)
	if err != nil {
		return err
	}
	p.out.Write(h[:])
	f, err := p.root.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	// One byte more than expected shows a file that grew.
	n, err := io.Copy(&p.out, io.LimitReader(f, s.size+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	if n != s.size {
		return fmt.Errorf("%s changed while it was packed: try again", s.path)
	}
	p.zeros(int(padded(n) - n))
	return nil
}

func (p *packer) zeros(n int) { p.out.Write(make([]byte, n)) }

// kindOf names what is not a regular file, for people.
func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeDir != 0:
		return "a directory"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m.IsRegular():
		return "a file"
	}
	return "something special"
}
