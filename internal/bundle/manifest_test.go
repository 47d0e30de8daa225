package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/strict"
)

// contract is the sample of the design, word for word: every key that will ever be obeyed.
func contract(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/contract.toml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestContractSampleDecodes(t *testing.T) {
	m := DefaultManifest()
	if _, err := strict.Decode(ManifestName, contract(t), &m); err != nil {
		t.Fatal(err)
	}
	want := perigee.Manifest{
		Name: "hello", Build: "GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o hello.wasm .", Wasm: "hello.wasm", Files: "public/",
		Next: "https://origin.example.com", Isolation: "request", Steer: "prefer",
		Secrets: []string{"DB_URL"}, Outbound: []string{"https://api.example.com"},
		Routes: []perigee.Route{{Host: "hello.example.com", Path: "/"}},
		Limits: perigee.Limits{Memory: 128 * perigee.MiB, Timeout: perigee.Duration(30 * time.Second)},
		Placement: perigee.Policy{
			Residency: []string{"eu"}, Pin: []string{"fra", "ams"}, Forbid: []string{"lon"},
			Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}},
			Prefer:  []string{}, Near: "client", Warm: map[string]int{"fra": 1}, Survive: "node", OnUnsatisfiable: "reject",
		},
		Env: map[string]string{"GREETING": "hello"},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
}

func TestContractSampleIsAccepted(t *testing.T) {
	m, err := ParseManifestFor(ManifestName, contract(t), perigee.BuiltinRegions())
	if err != nil {
		t.Fatal(err)
	}
	if m.Next != "https://origin.example.com" || len(m.Outbound) != 1 || m.Placement.Warm["fra"] != 1 || len(m.Placement.Callers) != 1 || len(m.Secrets) != 1 {
		t.Errorf("got %+v", m)
	}
}

func TestDefaults(t *testing.T) {
	m, err := ParseManifest(ManifestName, []byte("name = 'a'\nwasm = 'a.wasm'\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultManifest()
	want.Name, want.Wasm = "a", "a.wasm"
	if !reflect.DeepEqual(*m, want) {
		t.Errorf("got  %+v\nwant %+v", *m, want)
	}
	if m.Limits.Memory != 128*perigee.MiB || m.Limits.Timeout != perigee.Duration(30*time.Second) {
		t.Errorf("limits: got %+v", m.Limits)
	}
	m, err = ParseManifest(ManifestName, []byte("name = 'a'\nwasm = 'a.wasm'\n[limits]\ntimeout = '0'\nconcurrency = 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	if m.Limits.Timeout != 0 || m.Limits.Concurrency != 3 || m.Limits.Memory != perigee.DefaultMemory {
		t.Errorf("a timeout of \"0\" means none, and the other limits keep their defaults: got %+v", m.Limits)
	}
}

func TestParseManifestErrors(t *testing.T) {
	const head = "name = 'a'\nwasm = 'a.wasm'\n" // two lines
	for _, tt := range []struct{ text, want string }{
		{"wasm = 'a.wasm'\n", `f.toml: name: the name is empty: use 1 to 63 of a-z, 0-9 and '-'`},
		{"name = 'a'\n", `f.toml: wasm: the path is missing: name a file below the directory of perigee.toml`},
		{head + "[limits]\nmemroy = 1\n", `f.toml:4:1: unknown key "memroy" in [limits]; did you mean "memory"?`},
		{head + "[limits]\nmemory = '1000KiB'\n", `f.toml:4:1: limits.memory: 1000KiB is not a whole number of Wasm pages: use a multiple of 64KiB`},
		{head + "[limits]\ntimeout = '-1s'\n", `f.toml:4:11: limits.timeout: duration "-1s": want a number and a unit, like "30s" or "1m30s"`},
		{head + "[[route]]\nhost = 'a.b'\n[[route]]\nhost = 'A.b'\n", `f.toml:6:1: route[1].host: host name "A.b": "A" contains 'A': use only a-z, 0-9 and '-'`},
		{head + "[placement]\npin = ['fra',\n 'frq']\n", `f.toml:4:1: placement.pin[1]: this cluster has no region or group "frq" (did you mean "fra"?): perigee region ls lists them, perigee region add adds one`},
		{head + "env.1A = 'x'\n", `f.toml:3:5: env.1A: "1A" is not a name: use letters, digits and '_', and no digit first`},
		{head + "steer = 'perfer'\n", `f.toml:3:1: steer: "perfer" is not a choice: use "off", "prefer" or "force" (did you mean "prefer"?)`},
		{head + "placement.survive = 'regoin'\n", `f.toml:3:11: placement.survive: "regoin" is not a choice: use "node", "zone" or "region" (did you mean "region"?)`},
	} {
		_, err := ParseManifestFor("f.toml", []byte(tt.text), perigee.BuiltinRegions())
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q:\ngot  %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

func TestLoadManifest(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadManifest(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "name and wasm are enough") {
		t.Errorf("no manifest: got %v", err)
	}
	file := filepath.Join(dir, ManifestName)
	if err := os.WriteFile(file, []byte("name = 'a'\nwasm = '../a.wasm'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadManifest(dir); err == nil || !strings.HasPrefix(err.Error(), file+":2:1: wasm: ") {
		t.Errorf("bad manifest: got %v", err)
	}
	if err := os.WriteFile(file, []byte("name = 'a'\nwasm = 'a.wasm'\n[placement]\npin = ['nowhere']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := LoadManifest(dir); err != nil || m.Name != "a" {
		t.Errorf("without regions: got %v, %v", m, err)
	}
	if _, err := LoadManifestFor(dir, perigee.BuiltinRegions()); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("with regions: got %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	b, err := os.ReadFile("testdata/contract.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("name='a'\nwasm='a.wasm'\nroute=[{path='/a'},{host='b'}]\n[placement.warm]\nfra=1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifestFor("f.toml", b, perigee.BuiltinRegions())
		if err != nil {
			if text := err.Error(); len(text) > 32<<10 || !strings.HasPrefix(text, "f.toml:") {
				t.Fatalf("error of %d bytes: %.200s", len(text), text)
			}
			return
		}
		if err := CheckManifest(m, perigee.BuiltinRegions()); err != nil {
			t.Fatalf("what was accepted is refused when read again: %v", err)
		}
	})
}
