package strict

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// size is a number that people write with a unit.
type size int64

func (s *size) UnmarshalText(b []byte) error {
	if n, err := fmt.Sscanf(string(b), "%dMiB", s); n != 1 || err != nil {
		return fmt.Errorf("size %q: want MiB", b)
	}
	return nil
}

type sample struct {
	Name   string            `toml:"name"`
	Count  int               `toml:"count"`
	Fuel   uint64            `toml:"fuel"`
	On     bool              `toml:"on"`
	Size   size              `toml:"size"`
	List   []string          `toml:"list"`
	Env    map[string]string `toml:"env"`
	Routes []sampleRoute     `toml:"route"`
	Limits sampleLimits      `toml:"limits"`
}

type sampleRoute struct {
	Host string   `toml:"host"`
	Path []string `toml:"path"`
}

type sampleLimits struct {
	Memory  size           `toml:"memory"`
	MaxOpen int            `toml:"max_open"`
	Warm    map[string]int `toml:"warm"`
}

func TestDecode(t *testing.T) {
	v := sample{Name: "default", Count: 7, Size: 5, Limits: sampleLimits{Memory: 9, MaxOpen: 3}}
	_, err := Decode("f.toml", []byte(`
name = ""
list = ["a", # one
        "b"]
env.A = "1"
[[route]]
host = "x"
path = ["/", "/y"]
[[route]]
host = "z"
[limits]
memory = "2MiB"
warm = { fra = 1 }
[limits.warm2]
`), &v)
	if err == nil || !strings.Contains(err.Error(), `f.toml:14:9: unknown key "warm2" in [limits]; did you mean "warm"?`) {
		t.Fatalf("got %v", err)
	}
	v = sample{Name: "default", Count: 7, Size: 5, Limits: sampleLimits{Memory: 9, MaxOpen: 3}}
	_, err = Decode("f.toml", []byte("name = ''\r\nlist = ['a',\n'b']\nenv.A = '1'\n[[route]]\nhost='x'\npath=['/','/y']\n[[route]]\nhost='z'\n[limits]\nmemory='2MiB'\nwarm={fra=1}\n"), &v)
	if err != nil {
		t.Fatal(err)
	}
	want := sample{
		Name: "", Count: 7, Size: 5, List: []string{"a", "b"}, Env: map[string]string{"A": "1"},
		Routes: []sampleRoute{{"x", []string{"/", "/y"}}, {"z", nil}},
		Limits: sampleLimits{Memory: 2, MaxOpen: 3, Warm: map[string]int{"fra": 1}},
	}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("got  %+v\nwant %+v", v, want)
	}
}

func TestDecodeErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown", "colour = 1", `f.toml:1:1: unknown key "colour" at the top level; known: count, env, fuel, limits, list, name, on, route, size`},
		{"near miss", "\n  nmae = ''", `f.toml:2:3: unknown key "nmae" at the top level; did you mean "name"?`},
		{"case", "Name = ''", `f.toml:1:1: unknown key "Name" at the top level; did you mean "name"?`},
		{"dash", "[limits]\nmax-open = 1", `f.toml:2:1: unknown key "max-open" in [limits]; did you mean "max_open"?`},
		{"below a table", "[limits]\nname = 'x'", `f.toml:2:1: unknown key "name" in [limits]; it belongs at the top of the file, above the first [table]`},
		{"in another table", "memory = '1MiB'", `f.toml:1:1: unknown key "memory" at the top level; did you mean limits.memory?`},
		{"in a list of tables", "[[route]]\n[[route]]\nhots = 'x'", `f.toml:3:1: unknown key "hots" in [route[1]]; did you mean "host"?`},
		{"in an inline list", "route = [{host='a'}, {hots='b'}]", `f.toml:1:23: unknown key "hots" in [route[1]]; did you mean "host"?`},
		{"unknown table", "[limit]\nx = 1\ny = 2", `f.toml:1:2: unknown key "limit" at the top level; did you mean "limits"?`},
		{"several", "nmae=1\n[[route]]\nx=1", "f.toml:1:1: unknown key \"nmae\" at the top level; did you mean \"name\"?\nf.toml:3:1: unknown key \"x\" in [route[0]]; known: host, path"},
		{"single brackets", "[route]\nhost = 'x'", `f.toml:1:2: route: is not a table: want a list of tables, each under [[route]]`},
		{"double brackets", "[[limits]]", `f.toml:1:3: limits: is not a list of tables: want a table`},
		{"table for text", "[name]", `f.toml:1:2: name: is not a table: want text in double quotes`},
		{"text has no keys", "name.x = 1", `f.toml:1:6: name: has no keys below it: want text in double quotes`},
		{"number for text", "name = 5", `f.toml:1:1: name: got a whole number: want text in double quotes`},
		{"number for unit", "size = 5", `f.toml:1:1: size: got a whole number: want a value with its unit, in double quotes`},
		{"fraction", "count = 1.5", `f.toml:1:1: count: got a number with a fraction: want a whole number`},
		{"text for number", "count = '1'", `f.toml:1:1: count: got text: want a whole number`},
		{"date", "count = 2026-01-01", `f.toml:1:1: count: got a date or time: want a whole number`},
		{"text for truth", "on = 'yes'", `f.toml:1:1: on: got text: want true or false`},
		{"text for list", "list = 'x'", `f.toml:1:1: list: got text: want a list in [ ]`},
		{"number in list", "list = ['x', 1]", `f.toml:1:1: list[1]: got a whole number: want text in double quotes`},
		{"text for table", "limits = 'x'", `f.toml:1:1: limits: got text: want a table`},
		{"number in map", "env = { A = 1 }", `f.toml:1:9: env.A: got a whole number: want text in double quotes`},
		{"truth in map", "limits.warm.fra = true", `f.toml:1:13: limits.warm.fra: got true or false: want a whole number`},
		{"list for table", "limits = [1]", `f.toml:1:1: limits: got a list: want a table`},
		{"table for list", "list = {}", `f.toml:1:1: list: got a table: want a list in [ ]`},
		{"bad unit", "[limits]\nmemory = '5 MB'", `f.toml:2:10: limits.memory: size "5 MB": want MiB`},
		{"negative", "fuel = -1", `f.toml:1:8: fuel: negative integer value -1 cannot be stored in uint64`},
		{"twice", "name = 'a'\nname = 'b'", `f.toml:2:1: name: key name is already defined`},
		{"syntax", "name = 'a", `f.toml:1:9: unterminated literal string`},
		{"syntax behind unknown", "nmae = 1\n= 5", `f.toml:2:1: invalid character at start of key: U+003D '='`},
		{"not UTF-8", "name = '\xff'", `f.toml:1:9: invalid UTF-8 character in literal string`},
		{"too large", strings.Repeat("#", MaxBytes+1), `f.toml: the file has more than 64 KiB, the most that is read`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode("f.toml", []byte(tt.text), new(sample))
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("got %v of type %T, want Problems", err, err)
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	text := "name = 'x'\n[[route]]\nhost = 'a'\n[[route]]\n  path = ['/', '/y']\n[limits]\nwarm = { fra = 1 }\n"
	doc, err := Decode("f.toml", []byte(text), new(sample))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"name":             "f.toml:1:1: ",
		"route[0]":         "f.toml:2:3: ",
		"route[0].host":    "f.toml:3:1: ",
		"route[1].path":    "f.toml:5:3: ",
		"route[1].path[1]": "f.toml:5:3: ",
		"route[1].host":    "f.toml:4:3: ", // absent: its table
		"limits.warm.fra":  "f.toml:7:10: ",
		"limits.memory":    "f.toml:6:2: ",
		"env":              "f.toml: ",
	} {
		var ps Problems
		ps.Add(key, "bad")
		if got := doc.Place(ps.Err()).Error(); got != want+key+": bad" {
			t.Errorf("got %q, want %q", got, want+key+": bad")
		}
	}
	if other := errors.New("other"); doc.Place(other) != other || doc.Place(nil) != nil {
		t.Error("an error without problems must stay as it is")
	}
}

func TestProblems(t *testing.T) {
	var ps Problems
	if ps.Err() != nil {
		t.Error("no problem is an error")
	}
	for i := range maxShown + 5 {
		ps.Add(fmt.Sprint("k", i), "%s", strings.Repeat("é", 1000))
	}
	text := ps.Err().Error()
	if !strings.HasSuffix(text, "\nand 5 more") || len(text) > (maxShown+1)*(maxText+maxKey) {
		t.Errorf("the text of many problems has %d bytes and ends with %q", len(text), text[len(text)-20:])
	}
	if !errors.Is(ps, ps[3]) {
		t.Error("a problem is not found in its list")
	}
}

func TestKeys(t *testing.T) {
	want := []string{"name", "count", "fuel", "on", "size", "list", "env", "route[]", "route[].host", "route[].path", "limits", "limits.memory", "limits.max_open", "limits.warm"}
	if got := Keys(new(sample)); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestNear(t *testing.T) {
	known := []string{"memory", "timeout", "fuel", "concurrency", "max_open"}
	for word, want := range map[string]string{
		"memroy": "memory", "memori": "memory", "timeouts": "timeout", "time_out": "timeout", "fule": "fuel", "fuels": "fuel",
		"MAX-OPEN": "max_open", "concurency": "concurrency", "cpu": "", "x": "", "": "", strings.Repeat("m", 1000): "",
	} {
		if got := Near(word, known); got != want {
			t.Errorf("Near(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.toml")
	if _, err := ReadFile(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
	for _, tt := range []struct {
		size int
		ok   bool
	}{{0, true}, {MaxBytes, true}, {MaxBytes + 1, false}} {
		if err := os.WriteFile(path, make([]byte, tt.size), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := ReadFile(path); (err == nil) != tt.ok || tt.ok && len(b) != tt.size {
			t.Errorf("%d bytes: read %d, error %v", tt.size, len(b), err)
		}
	}
}

// TestDecodeCost feeds files of the largest size that are made to be slow.
func TestDecodeCost(t *testing.T) {
	for name, unit := range map[string]string{
		"dots": "a.", "brackets": "[", "lists": "list=[", "open tables": "env={a={", "keys": "env.\"a\"=1\n", "tables": "[[route]]\n",
		"unknown": "a=1\n", "env": "env.%d='1'\n", "headers": "[env]\n", "quotes": "'''\n", "commas": "list=[1,1,1,1,1,1]\n",
	} {
		var b strings.Builder
		for i := 0; b.Len() < MaxBytes-40; i++ {
			b.WriteString(strings.ReplaceAll(unit, "%d", fmt.Sprint("k", i)))
		}
		start := time.Now()
		_, err := Decode("f.toml", []byte(b.String()), new(sample))
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		if err != nil && len(err.Error()) > 32<<10 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name = 'x'\n[[route]]\nhost='a'\n[limits]\nwarm={fra=1}\n[env]\nA='1'"))
	f.Add([]byte("route=[{host='a',path=['/']}]\nlimits.warm.a=1\n\"a.b\".c=1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v sample
		doc, err := Decode("f.toml", b, &v)
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 || strings.Contains(err.Error(), "toml: f") {
				t.Fatalf("error %v of type %T", err, err)
			}
			return
		}
		// What the walk lets pass, the library finds no unknown key in.
		strictly := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields()
		if err := strictly.Decode(new(sample)); err != nil {
			t.Fatalf("the walk passed what the library refuses: %v", err)
		}
		for key, at := range doc.where {
			if line, column := doc.position(at); line < 1 || column < 1 || at > len(b) {
				t.Fatalf("key %q at %d is line %d, column %d", key, at, line, column)
			}
		}
	})
}
