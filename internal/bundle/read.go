package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// Bundle is an archive that was read and found in order. It is immutable and safe for concurrent
// use.
type Bundle struct {
	Digest perigee.Digest // of the archive
	Size   int64          // of the archive, in bytes
	Wasm   []byte         // the module, not looked into
	Files  fs.FS          // read-only; empty, never nil, when the function has none
}

// Read reads an archive from a source that is not trusted, into memory. It takes only the one form
// that Pack writes, refuses an archive as soon as it breaks a rule or a limit, and uses memory in
// proportion to the bytes it got, whatever the headers claim.
func Read(r io.Reader, l Limits) (*Bundle, error) {
	var content bytes.Buffer
	h := digest.New()
	s := scanner{r: io.TeeReader(r, io.MultiWriter(&content, h)), tree: newTree(l)}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	b := content.Bytes()
	return &Bundle{
		Digest: digest.Of(h),
		Size:   s.at,
		Wasm:   b[blockSize : blockSize+s.wasmSize : blockSize+s.wasmSize],
		Files:  &files{s.tree.nodes, bytes.NewReader(b)},
	}, nil
}

// scanner goes through an archive once, in order.
type scanner struct {
	r        io.Reader
	wasmSize int64 // of the module, which starts behind the first block
	tree     *tree
	at       int64 // bytes read
}

// scan reads everything up to the end of r.
func (s *scanner) scan() error {
	name, size, err := s.header()
	switch {
	case err != nil:
		return err
	case name != wasmEntry:
		return fmt.Errorf("entry %s: the first must be %q", quote(name), wasmEntry)
	case size == 0 || size > int64(s.tree.limits.Wasm):
		return fmt.Errorf("entry %s: %d bytes is not 1 to %s", quote(name), size, s.tree.limits.Wasm)
	}
	s.wasmSize = size
	if err := s.content(size); err != nil {
		return err
	}
	for {
		name, size, err := s.header()
		if errors.Is(err, errEnd) {
			s.tree.finish()
			return s.end()
		}
		if err != nil {
			return err
		}
		path, ok := bytes.CutPrefix([]byte(name), []byte(filesPrefix))
		if !ok {
			return fmt.Errorf("entry %s: only names below %q may follow the module", quote(name), filesPrefix)
		}
		if err := s.tree.add(string(path), s.at, size); err != nil {
			return fmt.Errorf("entry %s: %w", quote(name), err)
		}
		if err := s.content(size); err != nil {
			return err
		}
	}
}

// errEnd is what header returns for a block of zeros.
var errEnd = errors.New("end of archive")

// header reads a header and holds it against the one that its name and size may have.
func (s *scanner) header() (name string, size int64, err error) {
	var h [blockSize]byte
	if err := s.full(h[:]); err != nil {
		return "", 0, err
	}
	if h == [blockSize]byte{} {
		return "", 0, errEnd
	}
	name = text(h[0:100])
	if prefix := text(h[345:500]); prefix != "" {
		name = prefix + "/" + name
	}
	if kind := h[156]; kind != '0' {
		return "", 0, fmt.Errorf("entry %s: it is %s: only regular files are allowed", quote(name), entryKind(kind))
	}
	for _, c := range h[124:135] {
		if c < '0' || c > '7' {
			return "", 0, fmt.Errorf("entry %s: the size is not 11 octal digits", quote(name))
		}
		size = size<<3 | int64(c-'0')
	}
	if only, err := header(name, size); err != nil || only != h {
		return "", 0, fmt.Errorf("entry %s: the header has more than a name and a size, or is not in ustar form", quote(name))
	}
	return name, size, nil
}

// content passes over the contents of an entry, and checks their padding.
func (s *scanner) content(size int64) error {
	n, err := io.CopyN(io.Discard, s.r, size)
	if s.at += n; err != nil {
		return early(err)
	}
	var pad [blockSize]byte
	rest := pad[:padded(size)-size]
	if err := s.full(rest); err != nil {
		return err
	}
	if pad != [blockSize]byte{} {
		return fmt.Errorf("padding before byte %d is not zero", s.at)
	}
	return nil
}

// end reads what must follow the first block of zeros: another one, and nothing.
func (s *scanner) end() error {
	var zeros [blockSize]byte
	if err := s.full(zeros[:]); err != nil {
		return err
	}
	if zeros != [blockSize]byte{} {
		return fmt.Errorf("one block of zeros is followed by something else: two and nothing more must end the archive")
	}
	var one [1]byte
	switch n, err := io.ReadFull(s.r, one[:]); {
	case n > 0:
		return fmt.Errorf("there are bytes behind the end of the archive, at byte %d", s.at)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

func (s *scanner) full(b []byte) error {
	n, err := io.ReadFull(s.r, b)
	s.at += int64(n)
	return early(err)
}

// early explains the end of the input where more was due.
func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive is cut off: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// text returns a field up to its first zero byte.
func text(field []byte) string {
	before, _, _ := bytes.Cut(field, []byte{0})
	return string(before)
}

// entryKind names a type of tar entry, for people.
func entryKind(c byte) string {
	switch c {
	case '1':
		return "a hard link"
	case '2':
		return "a symbolic link"
	case '3', '4':
		return "a device"
	case '5':
		return "a directory"
	case '6':
		return "a pipe"
	case 'x', 'g':
		return "a pax header"
	case 'S', 'L', 'K':
		return "a GNU extension"
	}
	return fmt.Sprintf("of type %q", c)
}
