// Package strict decodes the TOML files that people write, function manifests and node settings,
// and says what is wrong with them in a way that a person can act on: file, line, column, key, and
// the rule. A key that the target does not have is an error, with a suggestion when it looks like
// a slip; nothing is ever ignored.
//
// The package knows no rule of any setting. The caller decodes into a struct that already holds
// the defaults (so a key that is absent keeps its default, and one that is present and empty does
// not), checks it, and lets Doc.Place add lines to the problems it found.
//
// It does no I/O beyond ReadFile, starts no goroutine and keeps no state. Input is bounded by
// MaxBytes, and so are time and memory.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// MaxBytes is the largest file that Decode and ReadFile take.
const MaxBytes = 64 << 10

// Doc remembers where each key of a decoded file stands. It is immutable.
type Doc struct {
	file  string
	text  []byte
	where map[string]int // key path -> offset of its last part
}

// ReadFile reads a file of at most MaxBytes.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("read %s: the file has more than %d KiB, the most that is read", path, MaxBytes>>10)
	}
	return b, nil
}

// Decode reads b into v, a pointer to a struct whose fields have toml tags and hold the defaults.
// Keys are case-sensitive. The file name is only for errors. An error is of type Problems. On
// error v may be partly filled.
func Decode(file string, b []byte, v any) (*Doc, error) {
	if len(b) > MaxBytes {
		return nil, Problems{{File: file, Text: fmt.Sprintf("the file has more than %d KiB, the most that is read", MaxBytes>>10)}}
	}
	doc := &Doc{file: file, text: bytes.Clone(b), where: map[string]int{}}
	w := walker{doc: doc, root: reflect.TypeOf(v).Elem(), arrays: map[string]int{}}
	w.walk()
	if w.syntax == nil && len(w.problems) > 0 {
		return nil, w.problems
	}
	err := toml.Unmarshal(doc.text, v)
	if err == nil {
		err = w.syntax // nil as well, unless parser and decoder disagree
	}
	if err != nil {
		return nil, Problems{doc.problem(err)}
	}
	return doc, nil
}

// problem turns an error of the TOML library into one of ours.
func (d *Doc) problem(err error) Problem {
	p := Problem{File: d.file, Text: strings.TrimPrefix(err.Error(), "toml: ")}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		p.Line, p.Column = at.Position()
		p.Key = strings.Join(at.Key(), ".")
	}
	return p
}

// Place adds file, line and column to problems that have a key, and leaves other errors alone. A
// key that the file does not have is placed at the nearest table around it, if that is there.
func (d *Doc) Place(err error) error {
	var found Problems
	if !errors.As(err, &found) {
		return err
	}
	placed := make(Problems, len(found))
	for i, p := range found {
		p.File = d.file
		if at, ok := d.find(p.Key); ok {
			p.Line, p.Column = d.position(at)
		}
		placed[i] = p
	}
	return placed
}

// Has reports whether the file says anything of a key or of one within it.
func (d *Doc) Has(key string) bool {
	for path := range d.where {
		if path == key || strings.HasPrefix(path, key+".") {
			return true
		}
	}
	return false
}

func (d *Doc) find(key string) (offset int, ok bool) {
	for key != "" {
		if at, ok := d.where[key]; ok {
			return at, true
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 0, false
}

// position returns the line and the column, in bytes, of an offset; both count from 1.
func (d *Doc) position(offset int) (line, column int) {
	before := d.text[:offset]
	return 1 + bytes.Count(before, []byte("\n")), offset - bytes.LastIndexByte(before, '\n')
}

func (d *Doc) offset(n *unstable.Node) int { return int(n.Raw.Offset) }
