package wasip1

import (
	"context"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Config says what one request's guest sees of a machine.
type Config struct {
	Args   []string  // the first is the program's name
	Env    []string  // NAME=value
	Files  fs.FS     // read-only at "/"; nil: there is no directory at all
	Stdin  io.Reader // nil: at its end. A read may wait; it has to end with the request
	Stdout io.Writer // nil: discarded. It must not keep what it is given
	Stderr io.Writer // nil: discarded

	// Sleep waits. It is given each wait of the guest and should end it when the request is over, by a
	// panic that unwinds the guest. nil means time.Sleep.
	Sleep func(time.Duration)

	// Check is called at the beginning of each function and between the parts of long ones. It unwinds
	// the guest by a panic when the request is over. nil: nothing is checked.
	Check func()

	// MaxOpens is how many descriptors may be open at once, the standard ones included. 0 means 1024.
	MaxOpens int
}

const (
	defaultOpens = 1024
	maxLookups   = 10_000 // looks at Files by one request: each costs the host work, and a listing memory
	standard     = 4      // descriptors: three streams and the directory "/"
)

// System is the machine as the guest of one request sees it. It serves one request at a time and is not
// safe for concurrent use.
type System struct {
	config   Config
	fds      []*descriptor // by number; nil where none is open
	lookups  int           // of maxLookups
	links    fs.ReadLinkFS // Files, if it has symbolic links
	listings map[string][]entry

	first [standard]descriptor
	table [2 * standard]*descriptor
}

// New returns a system at its beginning.
func New(c Config) *System {
	s := new(System)
	s.Reset(c)
	return s
}

// Reset closes what the guest opened and makes the system what New makes, for the next request.
func (s *System) Reset(c Config) {
	s.Close()
	c.Args, c.Env = cStrings(c.Args), cStrings(c.Env)
	if c.MaxOpens == 0 {
		c.MaxOpens = defaultOpens
	}
	if c.Sleep == nil {
		c.Sleep = time.Sleep
	}
	*s = System{config: c, first: beginning(c.Files != nil)}
	s.links, _ = c.Files.(fs.ReadLinkFS)
	s.fds = s.table[:0]
	for i := range s.first {
		if s.first[i].kind != closed {
			s.fds = append(s.fds, &s.first[i])
		}
	}
}

// beginning is the table of descriptors that a guest starts with.
func beginning(files bool) [standard]descriptor {
	t := [standard]descriptor{
		{kind: stdin, rights: streamRights | rightRead},
		{kind: stdout, rights: streamRights | rightWrite},
		{kind: stderr, rights: streamRights | rightWrite},
	}
	if files {
		t[3] = descriptor{kind: directory, path: ".", preopen: true, rights: dirRights, inheriting: rightsAll}
	}
	return t
}

// Close closes what the guest opened. The guest must not run any more.
func (s *System) Close() {
	for i, d := range s.fds {
		if d != nil && d.file != nil {
			_ = d.file.Close()
		}
		s.fds[i] = nil
	}
	s.fds = s.fds[:0]
}

// Pristine reports whether the descriptors are what they were at the beginning, so that a guest which
// has started can be continued with another System.
func (s *System) Pristine() bool {
	want := beginning(s.config.Files != nil)
	n := 0
	for i, d := range s.fds {
		switch {
		case d == nil:
		case i >= standard || d != &s.first[i] || *d != want[i]:
			return false
		default:
			n++
		}
	}
	if s.config.Files == nil {
		return n == standard-1
	}
	return n == standard
}

type key struct{}

// Context returns a context by which the functions find the system. Calls of the guest, and its
// instantiation if it has start functions, need it.
func (s *System) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, s)
}

// check unwinds the guest when its request is over.
func (s *System) check() {
	if s.config.Check != nil {
		s.config.Check()
	}
}

// cStrings returns the strings that can be given to a guest, which finds their ends by a zero byte: one
// that holds such a byte is left out.
func cStrings(list []string) []string {
	for i, text := range list {
		if strings.IndexByte(text, 0) < 0 {
			continue
		}
		out := append([]string(nil), list[:i]...)
		for _, text := range list[i+1:] {
			if strings.IndexByte(text, 0) < 0 {
				out = append(out, text)
			}
		}
		return out
	}
	return list
}
