package placement

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/perigee-edge/perigee"
)

// obeyed are the keys of the policy, in the order of the manual.
var obeyed = []string{"residency", "pin", "forbid", "callers", "prefer", "near", "warm", "survive", "max", "on_unsatisfiable"}

func manual(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../docs/placement.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section returns the part of the manual from one heading to the next of the same depth or less.
func section(t *testing.T, doc, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(doc, "\n"+heading)
	if !ok {
		t.Fatalf("docs/placement.md has no heading %q", heading)
	}
	level := strings.IndexByte(heading, ' ')
	for i, line := range strings.Split(rest, "\n") {
		if n := len(line) - len(strings.TrimLeft(line, "#")); i > 0 && n > 0 && n <= level {
			rest, _, _ = strings.Cut(rest, "\n"+line+"\n")
			break
		}
	}
	return rest
}

// rows returns the first cell of the rows of all tables in text, without its backquotes; the heads of
// tables are not quoted and are left out.
func rows(text string) (out []string) {
	for line := range strings.Lines(text) {
		cell, ok := strings.CutPrefix(line, "| `")
		if name, _, ended := strings.Cut(cell, "` |"); ok && ended {
			out = append(out, name)
		}
	}
	return out
}

// constants returns the values of the package's constants of a type, from the source, so that
// nobody can add one without the tests noticing.
func constants(t *testing.T, typ string) (out []string) {
	t.Helper()
	files, _ := sources(t)
	for _, f := range files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				vs, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				if id, ok := vs.Type.(*ast.Ident); !ok || id.Name != typ {
					continue
				}
				for _, v := range vs.Values {
					s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, s)
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("found no constant of type %s", typ)
	}
	return out
}

func TestManualListsEveryReasonAndCause(t *testing.T) {
	doc := manual(t)
	for _, tt := range []struct{ typ, heading string }{
		{"Reason", "## Reasons"},
		{"Cause", "## When nobody may or can serve"},
	} {
		want, got := constants(t, tt.typ), rows(section(t, doc, tt.heading))
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q of docs/placement.md lists\n%q, the code has\n%q", tt.heading, got, want)
		}
	}
	for _, r := range constants(t, "Reason") {
		if Reason(r).Text() == "" {
			t.Errorf("reason %s has no text", r)
		}
	}
	if Reason("because").Text() != "" {
		t.Error("a word that is no reason has a text")
	}
}

func TestManualExplainsEveryKey(t *testing.T) {
	keys := section(t, manual(t), "## The keys")
	policy := reflect.TypeFor[perigee.Policy]()
	seen := 0
	for i := range policy.NumField() {
		key := policy.Field(i).Tag.Get("toml")
		seen++
		part := section(t, keys, "### `"+key+"`")
		if !strings.Contains(part, "```toml") || !strings.Contains(part, key+" ") {
			t.Errorf("docs/placement.md has no example of %s", key)
		}
	}
	if seen != len(obeyed) {
		t.Errorf("obeyed names %d keys, Policy has %d of them", len(obeyed), seen)
	}
}

// decode reads a manifest strictly and checks its policy.
func decode(t *testing.T, name string, b []byte) perigee.Manifest {
	t.Helper()
	var m perigee.Manifest
	dec := toml.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := Check(m.Name, &m.Placement, perigee.BuiltinRegions()); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return m
}

func TestExamplesOfManualAreValid(t *testing.T) {
	blocks := strings.Split(manual(t), "```toml\n")[1:]
	if len(blocks) != len(obeyed) {
		t.Errorf("%d examples, %d keys", len(blocks), len(obeyed))
	}
	for _, b := range blocks {
		text, _, _ := strings.Cut(b, "```")
		decode(t, text, []byte(text))
	}
}

func TestExampleManifests(t *testing.T) {
	files, err := filepath.Glob("../examples/placement/*.toml")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		key := strings.TrimSuffix(filepath.Base(file), ".toml")
		names = append(names, key)
		m := decode(t, file, b)
		if m.Name == "" || m.Wasm == "" || !bytes.HasPrefix(b, []byte("# "+key+": ")) || !bytes.Contains(b, []byte("\n"+key+" = ")) {
			t.Errorf("%s is no example of %s", file, key)
		}
	}
	want := slices.Sorted(slices.Values(obeyed))
	if !slices.Equal(names, want) {
		t.Errorf("examples/placement has %q, the keys are %q", names, want)
	}
}

// The sentences that the manual quotes are the ones users will see.
func TestManualQuotesTheCode(t *testing.T) {
	doc := manual(t)
	causes := map[Cause]bool{}
	for _, tt := range []struct {
		nodes  []string
		policy perigee.Policy
		steer  Steer
		tried  perigee.NodeID
	}{
		{nodes: []string{"syd-1 warm", "wdc-1 warm"}, policy: perigee.Policy{Residency: []string{"eu"}}},
		{nodes: []string{"fra-1 warm dead", "wdc-2", "wdc-1 draining"}, policy: perigee.Policy{Pin: []string{"fra"}}},
		{nodes: []string{"fra-1 warm", "fra-2 draining", "wdc-1"}, policy: perigee.Policy{Pin: []string{"fra"}}, tried: "fra-1"},
		{nodes: []string{"fra-1 dead warm", "wdc-1"}},
		{nodes: []string{"fra-1 warm", "syd-1"}, policy: perigee.Policy{Pin: []string{"fra"}}, steer: Steer{SteerForce, "syd"}},
		{nodes: []string{"fra-1 warm"}, steer: Steer{SteerForce, "atlantis"}},
		{nodes: []string{"wdc-1 warm"}, steer: Steer{SteerForce, "syd"}},
	} {
		d := Demand{Function: function(tt.policy), Entry: "wdc-1", Steer: tt.steer, Tried: map[perigee.NodeID]bool{tt.tried: true}}
		r := Route(d, cluster(t, tt.nodes...), measured(map[perigee.NodeID]float64{"wdc-2": 0.4, "syd-1": 214, "fra-1": 91, "fra-2": 92}), noon, 0).Refusal
		if r == nil || !strings.Contains(doc, "\n"+r.Detail+"\n") {
			t.Errorf("docs/placement.md does not quote %+v", r)
			continue
		}
		causes[r.Cause] = true
	}
	if all := constants(t, "Cause"); len(causes) != len(all) {
		t.Errorf("quoted refusals for %v; the causes are %v", causes, all)
	}

	p := planOf(cluster(t, "ams-1", "ams-2", "fra-1 dead", "fra-2", "wdc-1"), perigee.Policy{Pin: []string{"fra", "ams"}, Warm: map[string]int{"fra": 1}})
	if table := strings.ReplaceAll(texts(p), ": ", "  "); !strings.Contains(strings.ReplaceAll(doc, ": ", "  "), table) {
		t.Errorf("docs/placement.md does not quote the plan\n%s", table)
	}
	for _, p := range []Plan{
		planOf(cluster(t, "fra-1", "ams-1 dead"), perigee.Policy{Pin: []string{"fra", "ams"}}),
		planOf(cluster(t, "fra-1"), perigee.Policy{Warm: map[string]int{"fra": 2}}),
	} {
		if !strings.Contains(doc, "\n"+p.Unsatisfied[0]+"\n") {
			t.Errorf("docs/placement.md does not quote %s", p.Unsatisfied[0])
		}
	}
}
