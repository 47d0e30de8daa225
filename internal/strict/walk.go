package strict

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// walker goes through a file once, next to the type it is decoded into: it notes where each key
// stands, and finds keys that the type does not have and values of the wrong kind. It never goes
// deeper into a file than the type does.
type walker struct {
	doc      *Doc
	root     reflect.Type
	arrays   map[string]int // path of a [[table]] -> how many there were so far
	problems Problems
	syntax   error
}

func (w *walker) walk() {
	var p unstable.Parser
	p.Reset(w.doc.text)
	table, path := w.root, ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table, path = w.header(e)
		case unstable.KeyValue:
			if table != nil { // else the header was refused
				w.keyValue(table, path, e)
			}
		}
	}
	w.syntax = p.Error()
}

// header follows the key of a [table] or [[table]] and returns its type and path; nil if refused.
func (w *walker) header(e *unstable.Node) (reflect.Type, string) {
	t, path, last := w.follow(w.root, "", e.Key())
	if t == nil {
		return nil, ""
	}
	if e.Kind == unstable.ArrayTable {
		if t.Kind() != reflect.Slice || !isTable(t.Elem()) {
			w.refuse(path, last, "is not a list of tables: want %s", want(t, path))
			return nil, ""
		}
		path = fmt.Sprintf("%s[%d]", path, w.arrays[path])
		w.arrays[path[:strings.LastIndexByte(path, '[')]]++
		w.note(path, last)
		return t.Elem(), path
	}
	if !isTable(t) && t.Kind() != reflect.Map {
		w.refuse(path, last, "is not a table: want %s", want(t, path))
		return nil, ""
	}
	return t, path
}

func (w *walker) keyValue(t reflect.Type, path string, e *unstable.Node) {
	t, path, last := w.follow(t, path, e.Key())
	if t != nil {
		w.value(t, path, last, e.Value())
	}
}

// follow resolves a dotted key. A part that names a list of tables means the last of them so far,
// as in TOML, unless it is the last part.
func (w *walker) follow(t reflect.Type, path string, key unstable.Iterator) (reflect.Type, string, *unstable.Node) {
	var part *unstable.Node
	for key.Next() {
		if n := w.arrays[path]; t.Kind() == reflect.Slice && n > 0 {
			t, path = t.Elem(), fmt.Sprintf("%s[%d]", path, n-1)
		}
		part = key.Node()
		name := string(part.Data)
		next := field(t, name)
		if next == nil {
			w.unknown(t, path, name, part)
			return nil, "", nil
		}
		t, path = next, join(path, name)
		w.note(path, part)
	}
	return t, path, part
}

// value compares the kind of a value with its type, and goes into lists and inline tables.
func (w *walker) value(t reflect.Type, path string, key, v *unstable.Node) {
	if !fits(t, v.Kind) {
		w.refuse(path, key, "got %s: want %s", got(v.Kind), want(t, path))
		return
	}
	i := 0
	for children := v.Children(); children.Next(); {
		child := children.Node()
		switch {
		case v.Kind == unstable.InlineTable && child.Kind == unstable.KeyValue:
			w.keyValue(t, path, child)
		case v.Kind == unstable.Array && child.Kind != unstable.Comment:
			elem := fmt.Sprintf("%s[%d]", path, i)
			w.note(elem, key)
			w.value(t.Elem(), elem, key, child)
			i++
		}
	}
}

func (w *walker) note(path string, at *unstable.Node) {
	if _, ok := w.doc.where[path]; !ok {
		w.doc.where[path] = w.doc.offset(at)
	}
}

func (w *walker) refuse(path string, at *unstable.Node, format string, args ...any) {
	line, column := w.doc.position(w.doc.offset(at))
	w.problems = append(w.problems, Problem{w.doc.file, line, column, path, fmt.Sprintf(format, args...)})
}

// unknown reports a key that the table does not have, and what was probably meant.
func (w *walker) unknown(t reflect.Type, path, name string, at *unstable.Node) {
	if !isTable(t) {
		w.refuse(path, at, "has no keys below it: want %s", want(t, path))
		return
	}
	place := "at the top level"
	if path != "" {
		place = "in [" + path + "]"
	}
	text := fmt.Sprintf("unknown key %s %s", quote(name), place)
	switch near := Near(name, names(t)); {
	case near != "":
		text += fmt.Sprintf("; did you mean %q?", near)
	case path != "" && field(w.root, name) != nil:
		text += "; it belongs at the top of the file, above the first [table]"
	case w.elsewhere(name) != "":
		text += fmt.Sprintf("; did you mean %s?", w.elsewhere(name))
	default:
		known := names(t)
		slices.Sort(known)
		text += "; known: " + strings.Join(known, ", ")
	}
	w.refuse("", at, "%s", text)
}

// elsewhere finds a key of this name in another table.
func (w *walker) elsewhere(name string) string {
	for _, key := range Keys(reflect.New(w.root).Interface()) {
		if _, last, ok := cutLast(key, '.'); ok && last == name {
			return key
		}
	}
	return ""
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// quote shortens what somebody wrote to what an error can carry.
func quote(s string) string { return strconv.Quote(s[:min(len(s), 80)]) }

func fits(t reflect.Type, k unstable.Kind) bool {
	switch {
	case isText(t):
		return k == unstable.String
	case t.Kind() == reflect.Bool:
		return k == unstable.Bool
	case t.Kind() == reflect.Slice:
		return k == unstable.Array
	case t.Kind() == reflect.Map || t.Kind() == reflect.Struct:
		return k == unstable.InlineTable
	}
	return k == unstable.Integer
}

// want says what a key of type t takes.
func want(t reflect.Type, path string) string {
	switch {
	case isText(t) && t.Kind() == reflect.String:
		return "text in double quotes"
	case isText(t):
		return "a value with its unit, in double quotes"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice && isTable(t.Elem()):
		return "a list of tables, each under [[" + path + "]]"
	case t.Kind() == reflect.Slice:
		return "a list in [ ]"
	case t.Kind() == reflect.Map || t.Kind() == reflect.Struct:
		return "a table"
	}
	return "a whole number"
}

func got(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "text"
	case unstable.Integer:
		return "a whole number"
	case unstable.Float:
		return "a number with a fraction"
	case unstable.Bool:
		return "true or false"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}
