package bundle

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/perigee-edge/perigee"
)

const maxDepth = 32 // directories above a file

// tree is the directory of an archive's files. It refuses what must not be in one, for the writer
// and the reader alike.
type tree struct {
	limits  Limits
	nodes   map[string]*node  // by path; "." is the root
	folded  map[string]string // path without case -> path
	last    string            // path added last
	entries int
	total   perigee.Bytes
}

// node is a file or a directory.
type node struct {
	name     string // last segment
	dir      bool
	offset   int64 // of the contents, in the archive
	size     int64
	children []*node // of a directory, sorted by name once the tree is complete
}

func newTree(l Limits) *tree {
	return &tree{
		limits: l.withDefaults(),
		nodes:  map[string]*node{".": {name: ".", dir: true}},
		folded: map[string]string{},
	}
}

// add puts a file into the tree. Files must come in the order of their paths' bytes.
func (t *tree) add(path string, offset, size int64) error {
	if err := checkFilePath(path); err != nil {
		return err
	}
	if path <= t.last {
		return fmt.Errorf("the path is not greater than %s before it: files must be sorted, each once", quote(t.last))
	}
	t.last = path
	if t.total += perigee.Bytes(size); t.total > t.limits.Files {
		return fmt.Errorf("the files have more than %s together, the most that is allowed", t.limits.Files)
	}
	parent := t.nodes["."]
	for i, c := range path {
		if c != '/' {
			continue
		}
		dir, err := t.enter(parent, path[:i])
		if err != nil {
			return err
		}
		parent = dir
	}
	_, err := t.insert(parent, path, &node{offset: offset, size: size})
	return err
}

// enter returns the directory at a path, which it makes if need be.
func (t *tree) enter(parent *node, path string) (*node, error) {
	switch n := t.nodes[path]; {
	case n == nil:
		return t.insert(parent, path, &node{dir: true})
	case !n.dir:
		return nil, fmt.Errorf("%s is a file and a directory at once", quote(path))
	default:
		return n, nil
	}
}

func (t *tree) insert(parent *node, path string, n *node) (*node, error) {
	if t.entries++; t.entries > t.limits.Entries {
		return nil, fmt.Errorf("there are more than %d files and directories, the most that is allowed", t.limits.Entries)
	}
	fold := strings.Map(foldRune, path)
	if other, ok := t.folded[fold]; ok {
		return nil, fmt.Errorf("%s and %s differ only in case: rename one of them", quote(other), quote(path))
	}
	t.folded[fold] = path
	n.name = path[strings.LastIndexByte(path, '/')+1:]
	t.nodes[path] = n
	parent.children = append(parent.children, n)
	return n, nil
}

// finish makes the tree ready for reading.
func (t *tree) finish() {
	for _, n := range t.nodes {
		slices.SortFunc(n.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	}
	t.folded = nil
}

// checkFilePath reports why a path can't be that of a file in an archive.
func checkFilePath(s string) error {
	switch {
	case !utf8.ValidString(s) || strings.ContainsFunc(s, isOdd):
		return fmt.Errorf("the path contains a backslash, an unprintable character or bytes that are not UTF-8: rename it")
	case !fs.ValidPath(s) || s == ".":
		return fmt.Errorf("the path is not a plain relative path: no '..', no '.', no empty segment, no '/' before or behind it")
	case strings.Count(s, "/") > maxDepth:
		return fmt.Errorf("the path has more than %d directories: use fewer", maxDepth)
	}
	return nil
}

// foldRune returns the same rune for all runes that differ only in case.
func foldRune(r rune) rune {
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return least
}
