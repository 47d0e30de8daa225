package strict

import (
	"encoding"
	"reflect"
	"strings"
)

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// Keys lists the paths of all keys that a struct like v takes, in the order of its fields: tables
// before what is in them, and "[]" behind a list of tables, like "route[]" and "route[].host".
func Keys(v any) []string {
	t := reflect.TypeOf(v)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return appendKeys(nil, "", t)
}

func appendKeys(keys []string, prefix string, t reflect.Type) []string {
	for i := range t.NumField() {
		f := t.Field(i)
		key := prefix + tag(f)
		elem := f.Type
		if elem.Kind() == reflect.Slice {
			elem = elem.Elem()
			if isTable(elem) {
				key += "[]"
			}
		}
		keys = append(keys, key)
		if isTable(elem) {
			keys = appendKeys(keys, key+".", elem)
		}
	}
	return keys
}

// tag returns the name of a field in TOML.
func tag(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return name
}

// names lists the keys directly in a table of type t.
func names(t reflect.Type) []string {
	list := make([]string, t.NumField())
	for i := range list {
		list[i] = tag(t.Field(i))
	}
	return list
}

// field returns the type of a key in a table of type t; nil if it has no such key.
func field(t reflect.Type, name string) reflect.Type {
	switch {
	case t.Kind() == reflect.Map:
		return t.Elem()
	case !isTable(t):
		return nil
	}
	for i := range t.NumField() {
		if tag(t.Field(i)) == name {
			return t.Field(i).Type
		}
	}
	return nil
}

func isTable(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isText(t) }

// isText reports whether values of t are written as strings, whatever they are in Go.
func isText(t reflect.Type) bool {
	return t.Kind() == reflect.String || reflect.PointerTo(t).Implements(textUnmarshaler)
}
