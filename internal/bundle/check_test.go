package bundle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/strict"
)

func valid() perigee.Manifest {
	m := DefaultManifest()
	m.Name, m.Wasm = "hello", "hello.wasm"
	return m
}

// TestCheckManifest changes one thing of a valid manifest at a time. The key "" means accepted.
func TestCheckManifest(t *testing.T) {
	type M = perigee.Manifest
	many := func(n int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("r%d", i)
		}
		return list
	}
	route := func(host, path string) func(*M) {
		return func(m *M) { m.Routes = []perigee.Route{{Host: "a.example", Path: "/"}, {Host: host, Path: path}} }
	}
	env := func(name, value string) func(*M) {
		return func(m *M) { m.Env = map[string]string{name: value} }
	}
	tests := []struct {
		name   string
		change func(*M)
		key    string // of the only problem
		text   string // part of it
	}{
		{"nothing", func(*M) {}, "", ""},
		{"zero enumerations", func(m *M) { *m = M{Name: "a", Wasm: "a.wasm", Limits: m.Limits} }, "", ""},

		{"no name", func(m *M) { m.Name = "" }, "name", "use 1 to 63"},
		{"name upper case", func(m *M) { m.Name = "Hello" }, "name", "use only a-z"},
		{"name with dot", func(m *M) { m.Name = "a.b" }, "name", "use only a-z"},
		{"name of 63", func(m *M) { m.Name = strings.Repeat("a", 63) }, "", ""},
		{"name of 64", func(m *M) { m.Name = strings.Repeat("a", 64) }, "name", "at most 63"},
		{"build too long", func(m *M) { m.Build = strings.Repeat("x", 4097) }, "build", "at most 4096"},
		{"build with NUL", func(m *M) { m.Build = "a\x00b" }, "build", "NUL"},

		{"wasm in a folder", func(m *M) { m.Wasm = "./dist/a b.wasm" }, "", ""},
		{"no wasm", func(m *M) { m.Wasm = "" }, "wasm", "missing"},
		{"wasm absolute", func(m *M) { m.Wasm = "/etc/passwd" }, "wasm", "relative path"},
		{"wasm above", func(m *M) { m.Wasm = "../a.wasm" }, "wasm", "without '..'"},
		{"wasm above, hidden", func(m *M) { m.Wasm = "a/../../b.wasm" }, "wasm", "without '..'"},
		{"wasm with backslash", func(m *M) { m.Wasm = `..\a.wasm` }, "wasm", "backslash"},
		{"wasm with NUL", func(m *M) { m.Wasm = "a\x00.wasm" }, "wasm", "unprintable"},
		{"wasm not UTF-8", func(m *M) { m.Wasm = "a\xff.wasm" }, "wasm", "unprintable"},
		{"wasm too long", func(m *M) { m.Wasm = strings.Repeat("a", 1025) }, "wasm", "at most 1024"},
		{"files", func(m *M) { m.Files = "public/" }, "", ""},
		{"files is all", func(m *M) { m.Files = "./" }, "files", "below the directory"},
		{"files above", func(m *M) { m.Files = ".." }, "files", "without '..'"},

		{"receipt", func(m *M) { m.Receipt = "full" }, "", ""},
		{"receipt unknown", func(m *M) { m.Receipt = "none" }, "receipt", `"full", "region" or "off"`},
		{"steer", func(m *M) { m.Steer = "force" }, "", ""},
		{"steer unknown", func(m *M) { m.Steer = "on" }, "steer", `"off", "prefer" or "force"`},
		{"isolation fresh", func(m *M) { m.Isolation = "fresh" }, "", ""},
		{"isolation shared", func(m *M) { m.Isolation = "shared" }, "", ""},
		{"isolation unknown", func(m *M) { m.Isolation = "requst" }, "isolation", `did you mean "request"?`},
		{"next origin", func(m *M) { m.Next = "https://example.com:8443" }, "", ""},
		{"next function", func(m *M) { m.Next = "fn:other" }, "", ""},
		{"next with a path", func(m *M) { m.Next = "https://example.com/v1" }, "next", "no path"},
		{"next with a user", func(m *M) { m.Next = "https://u@example.com" }, "next", "user information"},
		{"next of many", func(m *M) { m.Next = "https://*.example.com" }, "next", "name one"},
		{"next of nothing", func(m *M) { m.Next = "file" }, "next", `or use "files"`},
		{"secrets", func(m *M) { m.Secrets = []string{"A", "_B2"} }, "", ""},
		{"secret without a name", func(m *M) { m.Secrets = []string{"A", ""} }, "secrets[1]", "the name is empty"},
		{"secret that is no name", func(m *M) { m.Secrets = []string{"2A"} }, "secrets[0]", "no digit first"},
		{"secret twice", func(m *M) { m.Secrets = []string{"A", "B", "A"} }, "secrets[2]", "named twice"},
		{"secret in env", func(m *M) { m.Secrets, m.Env = []string{"A"}, map[string]string{"A": "b"} }, "secrets[0]", "key of env"},
		{"secrets many", func(m *M) { m.Secrets = many(65) }, "secrets", "at most 64"},
		{"no secrets", func(m *M) { m.Secrets = []string{} }, "", ""},
		{"outbound", func(m *M) {
			m.Outbound = []string{"https://a.example", "http://10.0.0.1:8080", "https://*.a.example", "fn:b", "https://größe.example"}
		}, "", ""},
		{"outbound to all", func(m *M) { m.Outbound = []string{"*"} }, "outbound[0]", "no origin"},
		{"outbound with a path", func(m *M) { m.Outbound = []string{"https://a.example", "https://b.example/x"} }, "outbound[1]", "no path"},
		{"outbound twice", func(m *M) { m.Outbound = []string{"https://a.example", "https://A.example:443"} }, "outbound[1]", "outbound[0] again"},
		{"outbound too many", func(m *M) { m.Outbound = make([]string, 101) }, "outbound", "at most 100"},

		{"second host", route("b.example", ""), "", ""},
		{"second path", route("a.example", "/api/v1/"), "", ""},
		{"path with words", route("a.example", "/größe ab"), "", ""},
		{"default host", route("", "/x"), "", ""},
		{"same route", route("a.example", "/"), "route[1]", "are those of route[0]"},
		{"same route by default", route("a.example", ""), "route[1]", "are those of route[0]"},
		{"host upper case", route("B.example", "/"), "route[1].host", "use only a-z"},
		{"host with port", route("b.example:80", "/"), "route[1].host", "use only a-z"},
		{"host with final dot", route("b.example.", "/"), "route[1].host", "empty"},
		{"host wildcard", route("*.example", "/"), "route[1].host", "use only a-z"},
		{"host too long", route(strings.Repeat("a.", 127)+"a", "/"), "route[1].host", "at most 253"},
		{"path relative", route("b.example", "api"), "route[1].path", `write "/api"`},
		{"path double slash", route("b.example", "/a//b"), "route[1].path", "'//'"},
		{"path dots", route("b.example", "/a/../b"), "route[1].path", `".."`},
		{"path dot", route("b.example", "/a/."), "route[1].path", `"."`},
		{"path with three dots", route("b.example", "/a/..."), "", ""},
		{"path query", route("b.example", "/a?b=c"), "route[1].path", "'?'"},
		{"path fragment", route("b.example", "/a#b"), "route[1].path", "'#'"},
		{"path escaped", route("b.example", "/a%2fb"), "route[1].path", "'%'"},
		{"path control", route("b.example", "/a\nb"), "route[1].path", "unprintable"},
		{"path backslash", route("b.example", `/a\b`), "route[1].path", "backslash"},
		{"path too long", route("b.example", "/"+strings.Repeat("a", 1024)), "route[1].path", "at most 1024"},
		{"routes", func(m *M) { m.Routes = make([]perigee.Route, 101) }, "route", "at most 100"},

		{"memory of a page", func(m *M) { m.Limits.Memory = 64 * perigee.KiB }, "", ""},
		{"memory of 4 GiB", func(m *M) { m.Limits.Memory = 4 * perigee.GiB }, "", ""},
		{"no memory", func(m *M) { m.Limits.Memory = 0 }, "limits.memory", "64KiB to 4GiB"},
		{"memory negative", func(m *M) { m.Limits.Memory = -64 * perigee.KiB }, "limits.memory", "64KiB to 4GiB"},
		{"memory above 4 GiB", func(m *M) { m.Limits.Memory = 4*perigee.GiB + 64*perigee.KiB }, "limits.memory", "64KiB to 4GiB"},
		{"memory odd", func(m *M) { m.Limits.Memory = 64*perigee.KiB + 1 }, "limits.memory", "multiple of 64KiB"},
		{"no timeout", func(m *M) { m.Limits.Timeout = 0 }, "", ""},
		{"timeout negative", func(m *M) { m.Limits.Timeout = -1 }, "limits.timeout", "negative"},
		{"fuel", func(m *M) { m.Limits.Fuel = 1 }, "", ""},
		{"concurrency", func(m *M) { m.Limits.Concurrency = 100_000 }, "", ""},
		{"concurrency negative", func(m *M) { m.Limits.Concurrency = -1 }, "limits.concurrency", "1 to 100000"},
		{"rate", func(m *M) { m.Limits.Rate = perigee.RateLimit{Requests: 1} }, "", ""},
		{"rate by a field", func(m *M) {
			m.Limits.Rate = perigee.RateLimit{Key: "header:X-Api-Key", Requests: 1_000_000, Per: perigee.Duration(24 * time.Hour), Burst: 1_000_000}
		}, "", ""},
		{"rate negative", func(m *M) { m.Limits.Rate.Requests = -1 }, "limits.rate.requests", "1 to 1000000"},
		{"rate high", func(m *M) { m.Limits.Rate.Requests = 1_000_001 }, "limits.rate.requests", "1 to 1000000"},
		{"rate of nothing", func(m *M) { m.Limits.Rate.Burst = 5 }, "limits.rate.requests", "say how many"},
		{"rate per instant", func(m *M) { m.Limits.Rate = perigee.RateLimit{Requests: 1, Per: 1} }, "limits.rate.per", `"1s" to "24h"`},
		{"rate per month", func(m *M) {
			m.Limits.Rate = perigee.RateLimit{Requests: 1, Per: perigee.Duration(720 * time.Hour)}
		}, "limits.rate.per", `"1s" to "24h"`},
		{"burst negative", func(m *M) { m.Limits.Rate = perigee.RateLimit{Requests: 1, Burst: -1} }, "limits.rate.burst", "1 to 1000000"},
		{"rate of a cookie", func(m *M) { m.Limits.Rate = perigee.RateLimit{Requests: 1, Key: "cookie"} }, "limits.rate.key", `use "ip"`},
		{"rate of no field", func(m *M) { m.Limits.Rate = perigee.RateLimit{Requests: 1, Key: "header:a b"} }, "limits.rate.key", "no name"},
		{"rules of no cache", func(m *M) { m.Cache.Cookies = perigee.CookiesPass }, "cache.enabled", "set it to true"},
		{"cookies otherwise", func(m *M) { m.Cache = perigee.Cache{Enabled: true, Cookies: "eat"} }, "cache.cookies", "bypass"},
		{"all fields and one", func(m *M) { m.Cache = perigee.Cache{Enabled: true, Headers: []string{"Accept", "*"}} }, "cache.headers[1]", "remove the others"},
		{"a field twice", func(m *M) { m.Cache = perigee.Cache{Enabled: true, Headers: []string{"Accept", "accept"}} }, "cache.headers[1]", "named twice"},
		{"no field", func(m *M) { m.Cache = perigee.Cache{Enabled: true, Headers: []string{"a b"}} }, "cache.headers[0]", "no name"},
		{"many fields", func(m *M) { m.Cache = perigee.Cache{Enabled: true, Headers: make([]string, 17)} }, "cache.headers", "at most 16"},
		{"concurrency high", func(m *M) { m.Limits.Concurrency = 100_001 }, "limits.concurrency", "1 to 100000"},

		{"places", func(m *M) {
			m.Placement.Residency = []string{"eu", "node:fra-1", "label:gpu=yes"}
			m.Placement.Pin, m.Placement.Forbid, m.Placement.Prefer = []string{"fra"}, []string{"ams"}, []string{"fra", "eu"}
		}, "", ""},
		{"residency malformed", func(m *M) { m.Placement.Residency = []string{"EU"} }, "placement.residency[0]", "use only a-z"},
		{"pin empty", func(m *M) { m.Placement.Pin = []string{""} }, "placement.pin[0]", "a place is a region"},
		{"forbid label malformed", func(m *M) { m.Placement.Forbid = []string{"label:gpu"} }, "placement.forbid[0]", "label:<key>=<value>"},
		{"prefer unknown", func(m *M) { m.Placement.Prefer = []string{"fra", "atlantis"} }, "placement.prefer[1]", `no region or group "atlantis"`},
		{"pin twice", func(m *M) { m.Placement.Pin = []string{"fra", "ams", "fra"} }, "placement.pin[2]", "named twice"},
		{"pin long", func(m *M) { m.Placement.Pin = many(257) }, "placement.pin", "at most 256"},
		{"warm", func(m *M) { m.Placement.Warm = map[string]int{"fra": 2, "eu": 0} }, "", ""},
		{"warm negative", func(m *M) { m.Placement.Warm = map[string]int{"fra": -1} }, "placement.warm.fra", "out of range"},
		{"warm many", func(m *M) { m.Placement.Warm = map[string]int{"fra": 100_001} }, "placement.warm.fra", "out of range"},
		{"warm node", func(m *M) { m.Placement.Warm = map[string]int{"node:a": 1} }, "placement.warm.node:a", "a region or a group"},
		{"warm unknown", func(m *M) { m.Placement.Warm = map[string]int{"atlantis": 1} }, "placement.warm.atlantis", "no region or group"},
		{"warm long", func(m *M) {
			m.Placement.Warm = map[string]int{}
			for _, r := range many(257) {
				m.Placement.Warm[r] = 1
			}
		}, "placement.warm", "at most 256"},
		{"max negative", func(m *M) { m.Placement.Max = -1 }, "placement.max", "out of range"},
		{"callers", func(m *M) {
			m.Placement.Callers = []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"fra", "node:ams-1"}}}
		}, "", ""},
		{"callers without run", func(m *M) { m.Placement.Callers = []perigee.CallerRule{{From: []string{"eu"}}} }, "placement.callers[0].run", "is empty"},
		{"callers without from", func(m *M) { m.Placement.Callers = []perigee.CallerRule{{Run: []string{"eu"}}} }, "placement.callers[0].from", "is empty"},
		{"callers of nowhere", func(m *M) {
			m.Placement.Callers = []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"frq"}}}
		}, "placement.callers[0].run[0]", `did you mean "fra"`},
		{"callers long", func(m *M) { m.Placement.Callers = make([]perigee.CallerRule, 33) }, "placement.callers", "at most 32"},
		{"near client", func(m *M) { m.Placement.Near = "client" }, "", ""},
		{"near host", func(m *M) { m.Placement.Near = "host:db.example.com:5432" }, "", ""},
		{"near a function", func(m *M) { m.Placement.Near = "fn:other" }, "", ""},
		{"near without port", func(m *M) { m.Placement.Near = "host:db" }, "placement.near", "host:db.example.com:5432"},
		{"near port 0", func(m *M) { m.Placement.Near = "host:db:0" }, "placement.near", "host:db.example.com:5432"},
		{"near nothing", func(m *M) { m.Placement.Near = "fn:" }, "placement.near", "empty"},
		{"near elsewhere", func(m *M) { m.Placement.Near = "db" }, "placement.near", `want "client"`},
		{"survive zone", func(m *M) { m.Placement.Survive = "zone" }, "", ""},
		{"survive unknown", func(m *M) { m.Placement.Survive = "moon" }, "placement.survive", `use "node"`},
		{"degrade", func(m *M) { m.Placement.OnUnsatisfiable = "degrade" }, "", ""},
		{"on_unsatisfiable unknown", func(m *M) { m.Placement.OnUnsatisfiable = "x" }, "placement.on_unsatisfiable", `use "reject"`},

		{"env", env("_Ab9", "any\ntext ü"), "", ""},
		{"env digit first", env("9A", ""), "env.9A", "no digit first"},
		{"env dash", env("A-B", ""), "env.A-B", "letters, digits and '_'"},
		{"env no name", env("", "x"), "env.", "letters, digits and '_'"},
		{"env NUL", env("A", "a\x00b"), "env.A", "NUL"},
		{"env not UTF-8", env("A", "\xff"), "env.A", "UTF-8"},
		{"env full", env("A", strings.Repeat("x", 32<<10-3)), "", ""},
		{"env too large", env("A", strings.Repeat("x", 32<<10-2)), "env", "at most 32KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := valid()
			tt.change(&m)
			err := CheckManifest(&m, perigee.BuiltinRegions())
			if tt.key == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var ps strict.Problems
			if !errors.As(err, &ps) || len(ps) != 1 || ps[0].Key != tt.key || !strings.Contains(ps[0].Text, tt.text) {
				t.Errorf("got  %v\nwant one problem of %s that says %q", err, tt.key, tt.text)
			}
		})
	}
}

func TestCheckManifestReportsEverything(t *testing.T) {
	m := perigee.Manifest{Name: "A", Limits: perigee.Limits{Concurrency: -1}, Env: map[string]string{"1": "", "2": ""}}
	var ps strict.Problems
	if err := CheckManifest(&m, nil); !errors.As(err, &ps) {
		t.Fatal(err)
	}
	var keys []string
	for _, p := range ps {
		keys = append(keys, p.Key)
	}
	if got, want := strings.Join(keys, " "), "name wasm limits.memory limits.concurrency env.1 env.2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCheckManifestBoundsItsError(t *testing.T) {
	long := strings.Repeat("A", 1<<20)
	m := perigee.Manifest{
		Name: long, Wasm: long, Steer: long, Receipt: long, Isolation: long, Routes: []perigee.Route{{Host: long, Path: long}},
		Placement: perigee.Policy{Pin: []string{long}, Survive: long, Warm: map[string]int{long: 1}},
	}
	err := CheckManifest(&m, perigee.BuiltinRegions())
	if err == nil || len(err.Error()) > 16<<10 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}
