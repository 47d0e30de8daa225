package bundle

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/strict"
)

// TestDoc holds docs/manifest.md against the code: every key once, with its default, and obeyed.
func TestDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	const head = "name = 'a'\nwasm = 'a.wasm'\n"
	var keys []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| ([^|]+) \\| ([^|]+) \\| [^|]+ \\| [^|]*\\|$").FindAllStringSubmatch(string(doc), -1) {
		key, value, obeyed := row[1], strings.Trim(row[2], "`"), row[3]
		keys = append(keys, key)
		if obeyed != "yes" {
			t.Errorf("docs/manifest.md says of %s: obeyed %q", key, obeyed)
		}
		switch {
		case value == "none":
			if !isZero(key) {
				t.Errorf("docs/manifest.md says that %s has no default", key)
			}
		case value != "required" && !strings.Contains(key, "[]"):
			m, err := ParseManifest("f.toml", []byte(fmt.Sprintf("%s%s = %s\n", head, key, value)))
			want := DefaultManifest()
			want.Name, want.Wasm = "a", "a.wasm"
			if err != nil || !reflect.DeepEqual(*m, want) || isZero(key) != (value == "0") {
				t.Errorf("docs/manifest.md says that %s is %s by default: %v", key, value, err)
			}
		}
	}
	want := strict.Keys(perigee.Manifest{})
	slices.Sort(keys)
	slices.Sort(want)
	if !slices.Equal(keys, want) {
		t.Errorf("docs/manifest.md has rows for\n%v\nthe manifest has\n%v", keys, want)
	}
}

// isZero reports whether a key is zero in the default manifest. Tables are, since their keys have
// rows of their own.
func isZero(key string) bool {
	v := reflect.ValueOf(DefaultManifest())
	for part := range strings.SplitSeq(key, ".") {
		part, list := strings.CutSuffix(part, "[]")
		v = v.FieldByIndex(fieldIndex(v.Type(), part))
		if list {
			return v.Len() == 0
		}
	}
	return v.IsZero() || v.Kind() == reflect.Struct
}

func fieldIndex(t reflect.Type, tag string) []int {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("toml") == tag {
			return []int{i}
		}
	}
	panic("no key " + tag)
}

// TestDocExamples checks the manifests that the page shows.
func TestDocExamples(t *testing.T) {
	doc, err := os.ReadFile("../../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(doc, -1)
	if len(examples) != 3 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, e := range examples {
		text := e[1]
		if !strings.Contains(string(text), "wasm") { // a part of one
			text = append([]byte("name = \"a\"\nwasm = \"a.wasm\"\n"), text...)
		}
		if _, err := ParseManifestFor("docs/manifest.md", text, perigee.BuiltinRegions()); err != nil {
			t.Error(err)
		}
	}
}
