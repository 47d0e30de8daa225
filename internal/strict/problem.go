package strict

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a file, or with a value that may have come from one.
type Problem struct {
	File   string // "" = unknown
	Line   int    // from 1; 0 = unknown
	Column int    // in bytes, from 1
	Key    string // path of the key, like "placement.pin[1]"; "" = the whole file
	Text   string // what is wrong, the rule, and what to do
}

// Error returns "file:line:column: key: text", without the parts that are unknown.
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(shorten(p.Key, maxKey) + ": ")
	}
	b.WriteString(shorten(p.Text, maxText))
	return b.String()
}

// Bounds of what an error shows of what somebody else wrote, in bytes.
const (
	maxKey  = 120
	maxText = 600
)

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// Problems is a non-empty list of things that are wrong, in the order of the file. It is an error.
type Problems []Problem

// maxShown bounds the text of an error: who made that many mistakes made one, many times.
const maxShown = 20

// Add appends a problem of a key.
func (ps *Problems) Add(key, format string, args ...any) {
	*ps = append(*ps, Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

// Err returns the list as an error, or nil if it is empty.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Error returns one line for each of the first problems.
func (ps Problems) Error() string {
	lines := make([]string, 0, maxShown+1)
	for i, p := range ps {
		if i == maxShown {
			lines = append(lines, fmt.Sprintf("and %d more", len(ps)-maxShown))
			break
		}
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems one by one.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}
