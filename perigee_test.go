package perigee_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestCheckLabel(t *testing.T) {
	for _, s := range []string{"a", "fra-1", "0", strings.Repeat("x", 63)} {
		if err := perigee.CheckLabel(s); err != nil {
			t.Errorf("CheckLabel(%q) = %v", s, err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "A", "a_b", "a.b", "ü", strings.Repeat("x", 64)} {
		if perigee.CheckLabel(s) == nil {
			t.Errorf("CheckLabel(%q) accepts it", s)
		}
	}
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]perigee.Bytes{"128MiB": 128 << 20, "4GiB": 4 << 30, "0B": 0, "1536 KiB": 1536 << 10} {
		var b perigee.Bytes
		if err := b.UnmarshalText([]byte(in)); err != nil || b != want {
			t.Errorf("%q = %d, %v; want %d", in, b, err, want)
		}
	}
	for _, in := range []string{"", "12", "1MB", "-1MiB", "9999999999999GiB", "MiB", "1.5GiB"} {
		var b perigee.Bytes
		if b.UnmarshalText([]byte(in)) == nil {
			t.Errorf("%q is accepted as %d", in, b)
		}
	}
	for b, want := range map[perigee.Bytes]string{0: "0B", 1: "1B", 128 * perigee.MiB: "128MiB", 3 * perigee.KiB / 2: "1536B"} {
		if b.String() != want {
			t.Errorf("Bytes(%d) = %s, want %s", b, b, want)
		}
	}
}

func TestDigestText(t *testing.T) {
	d := perigee.Digest{1, 2, 3}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var back perigee.Digest
	if err := json.Unmarshal(b, &back); err != nil || back != d {
		t.Fatalf("%s read back as %v, %v", b, back, err)
	}
	for _, s := range []string{"", "b3:", "b3:zz", d.String()[3:], d.String() + "0", "sha256:" + d.String()[3:]} {
		if _, err := perigee.ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) accepts it", s)
		}
	}
}

// The estimate stands in for a measurement, so it must be of the right size: published round trips
// of these pairs are 13, 91, 250 and 115 ms.
func TestEstimateRTT(t *testing.T) {
	r := perigee.BuiltinRegions()
	for _, c := range []struct {
		a, b     perigee.Region
		min, max time.Duration
	}{
		{"fra", "lon", 5 * time.Millisecond, 20 * time.Millisecond},
		{"fra", "wdc", 60 * time.Millisecond, 140 * time.Millisecond},
		{"fra", "syd", 200 * time.Millisecond, 300 * time.Millisecond},
		{"syd", "tok", 90 * time.Millisecond, 160 * time.Millisecond},
		{"fra", "fra", 0, 3 * time.Millisecond},
	} {
		a, okA := r.Lookup(c.a)
		b, okB := r.Lookup(c.b)
		if !okA || !okB {
			t.Fatalf("regions %s, %s are not built in", c.a, c.b)
		}
		if got := a.Point.EstimateRTT(b.Point); got < c.min || got > c.max {
			t.Errorf("%s to %s: estimate %v, want %v to %v", c.a, c.b, got, c.min, c.max)
		}
	}
}

func TestRegions(t *testing.T) {
	r := perigee.BuiltinRegions()
	for _, info := range r.All() {
		if err := perigee.CheckLabel(string(info.Code)); err != nil || info.City == "" || len(info.Country) != 2 || len(info.Groups) == 0 {
			t.Errorf("region %+v is not complete: %v", info, err)
		}
	}
	if !r.Known("fra") || !r.Known("eu") || r.Known("atlantis") {
		t.Error("Known does not tell regions and groups from other words")
	}
	more := r.With(perigee.RegionInfo{Code: "hel", Groups: []string{"nordic"}})
	if !more.Known("hel") || !more.Known("nordic") || r.Known("hel") {
		t.Error("With must add to a copy")
	}
}

func TestTermMatches(t *testing.T) {
	r := perigee.BuiltinRegions()
	n := perigee.NodeClaims{ID: "fra-1", Region: "fra", Labels: map[string]string{"gpu": "yes"}}
	for term, want := range map[string]bool{
		"fra": true, "eu": true, "lon": false, "us": false, "node:fra-1": true, "node:fra-2": false,
		"label:gpu=yes": true, "label:gpu=no": false, "label:cpu=yes": false,
	} {
		parsed, err := perigee.ParseTerm(term)
		if err != nil {
			t.Fatalf("ParseTerm(%q): %v", term, err)
		}
		if got := parsed.Matches(n, r); got != want {
			t.Errorf("%s matches %s: %t, want %t", term, n.ID, got, want)
		}
	}
	for _, bad := range []string{"", "EU", "node:", "node:A", "label:x", "label:=y", "label:x="} {
		if _, err := perigee.ParseTerm(bad); err == nil {
			t.Errorf("ParseTerm(%q) accepts it", bad)
		}
	}
}

func TestLookup(t *testing.T) {
	fn := func(name string, routes ...perigee.Route) *perigee.Function {
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: perigee.Manifest{Name: name, Routes: routes}}}
	}
	lost := fn("lost", perigee.Route{Host: "a.example", Path: "/"})
	lost.Contested = []perigee.ContestedRoute{{Route: perigee.Route{Host: "a.example", Path: "/"}, Owner: "root"}}
	d := perigee.NewDesired(perigee.Desired{Domain: "fn.example", Functions: map[string]*perigee.Function{
		"root": fn("root", perigee.Route{Host: "a.example"}),
		"api":  fn("api", perigee.Route{Host: "a.example", Path: "/api"}, perigee.Route{Host: "a.example", Path: "/x/"}),
		"bare": fn("bare"),
		"lost": lost,
	}})
	for _, c := range []struct{ host, path, want string }{
		{"a.example", "/", "root"},
		{"a.example", "/apis", "root"},
		{"a.example", "/api", "api"},
		{"a.example", "/api/", "api"},
		{"a.example", "/api/v1", "api"},
		{"a.example", "/x/y", "api"},
		{"a.example", "/x", "root"},
		{"bare.fn.example", "/any", "bare"},
		{"fn.example", "/", ""},
		{"b.example", "/", ""},
	} {
		got := ""
		if f := d.Lookup(c.host, c.path); f != nil {
			got = f.Name
		}
		if got != c.want {
			t.Errorf("Lookup(%s, %s) = %q, want %q", c.host, c.path, got, c.want)
		}
	}
	if !d.HasHost("bare.fn.example") || d.HasHost("fn.example") {
		t.Error("HasHost does not agree with the routes")
	}
}
