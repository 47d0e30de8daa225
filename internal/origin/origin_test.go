package origin

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestParseRule(t *testing.T) {
	for s, want := range map[string]string{
		"https://api.example.com":      "https://api.example.com",
		"https://API.Example.com.:443": "https://api.example.com",
		"http://host:8080":             "http://host:8080",
		"http://host:80":               "http://host",
		"https://bücher.example":       "https://xn--bcher-kva.example",
		"https://*.Example.com":        "https://*.example.com",
		"https://*.example.com:8443":   "https://*.example.com:8443",
		"https://192.0.2.1":            "https://192.0.2.1",
		"https://[2001:DB8::0:1]:444":  "https://[2001:db8::1]:444",
		"https://[2001:db8::1]":        "https://[2001:db8::1]",
		"fn:other":                     "fn:other",
		"http://other.internal":        "fn:other",
		"https://my_host.example":      "https://my_host.example",
		"http://[::ffff:127.0.0.1]":    "http://[::ffff:127.0.0.1]",
	} {
		r, err := ParseRule(s)
		if err != nil || r.String() != want {
			t.Errorf("%s: got %s, %v; want %s", s, r, err, want)
		}
		if again, err := ParseRule(r.String()); err != nil || again != r {
			t.Errorf("%s: its form %s is read as %v, %v", s, r, again, err)
		}
	}
	for s, want := range map[string]string{
		"":                           "no origin",
		"*":                          "no origin",
		"api.example.com":            "no origin",
		"ftp://api.example.com":      "no origin",
		"https://":                   "no origin",
		"https:///x":                 "no origin",
		"https://a.example/":         "no path",
		"https://a.example/v1":       "no path",
		"https://a.example?x":        "no path",
		"https://a.example?":         "no path",
		"https://a.example#":         "no path",
		"https://u@a.example":        "user information",
		"https://u:p@a.example":      "user information",
		"https://*":                  "first labels",
		"https://*.com":              "two labels",
		"https://*.127.0.0.1":        "two labels",
		"https://a.*.example.com":    "first labels",
		"https://*a.example.com":     "first labels",
		"http://*.internal":          "two labels",
		"http://*.other.internal":    "two labels",
		"https://other.internal":     "another function",
		"http://other.internal:8080": "another function",
		"http://a.b.internal":        "another function",
		"fn:":                        "name",
		"fn:Other":                   "'O'",
		"fn:*":                       "'*'",
		"https://a.example:0":        "1 to 65535",
		"https://a.example:65536":    "1 to 65535",
		"https://a.example:":         "without a port",
		"https://2130706433":         "ends in a number",
		"https://0x7f.1":             "ends in a number",
		"https://a.0x7f":             "ends in a number",
		"https://127.1":              "ends in a number",
		"https://1.2.3.4.5":          "ends in a number",
		"https://[fe80::1%25eth0]":   "zone",
		"https://a..example":         "label",
		"https://a b.example":        "no origin",
		"https://a!b.example":        "contains",
		"https://" + strings.Repeat("a", 64) + ".example":  "label",
		"https://" + strings.Repeat("a.", 130) + "example": "253",
		"https://" + strings.Repeat("a", 2000):             "at most 1024",
	} {
		if r, err := ParseRule(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %s, %v; want an error with %q", s, r, err, want)
		}
	}
}

func TestAllows(t *testing.T) {
	for _, tt := range []struct {
		rule, url string
		want      bool
	}{
		{"https://a.example", "https://A.example:443/x?y#z", true},
		{"https://a.example", "https://a.example./", true},
		{"https://a.example", "https://ａ.example/", true}, // a full-width letter is that letter
		{"https://a.example", "http://a.example/", false},
		{"https://a.example", "https://a.example:444/", false},
		{"https://a.example", "https://b.a.example/", false},
		{"https://a.example", "https://a.example.evil.test/", false},
		{"https://a.example", "https://a.example@evil.test/", false},
		{"https://*.a.example", "https://b.a.example/", true},
		{"https://*.a.example", "https://c.b.a.example/", true},
		{"https://*.a.example", "https://a.example/", false},
		{"https://*.a.example", "https://ba.example/", false},
		{"https://*.a.example", "http://b.a.example/", false},
		{"http://127.0.0.1", "http://127.0.0.1/", true},
		{"http://127.0.0.1", "http://１２７.0.0.1/", true},
		{"http://127.0.0.1", "http://127.1/", false},
		{"http://127.0.0.1", "http://0x7f000001/", false},
		{"fn:other", "http://other.internal/x", true},
		{"fn:other", "http://OTHER.internal.:80/x", true},
		{"fn:other", "http://third.internal/", false},
		{"fn:other", "https://other.internal/", false},
		{"http://other.internal", "http://other.internal/", true},
	} {
		r, err := ParseRule(tt.rule)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		o, err := Of(u)
		if got := err == nil && r.Allows(o); got != tt.want {
			t.Errorf("%s allows %s: %v (%v), want %v", tt.rule, tt.url, got, err, tt.want)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	for s, has := range map[string]string{
		"10.1.0.0/16":   "10.1.2.3:4",
		"10.1.2.3":      "10.1.2.3:4",
		"10.1.2.3:4":    "10.1.2.3:4",
		"fd00::/8":      "[fd00::1]:80",
		"[fd00::1]:80":  "[fd00::1]:80",
		"fd00::1":       "[fd00::1]:80",
		"127.0.0.0/8":   "127.9.9.9:1",
		"0.0.0.0/0":     "192.0.2.1:1",
		"127.0.0.1:443": "127.0.0.1:443",
	} {
		n, err := ParseNetwork(s)
		if err != nil || !n.Has(netip.MustParseAddrPort(has)) || n.Exact() != strings.Contains(s, ":4") && !strings.HasPrefix(s, "[") && n.Port != 0 {
			t.Errorf("%s: %+v, %v", s, n, err)
		}
		if n.Has(netip.MustParseAddrPort("[2001:db8::1]:9")) {
			t.Errorf("%s has another address", s)
		}
	}
	for _, s := range []string{"", "x", "10.1.2.3/16", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.1:x", "0.0.0.0", "10.0.0.1/33", "localhost:80"} {
		if n, err := ParseNetwork(s); err == nil {
			t.Errorf("%s: got %+v, want an error", s, n)
		}
	}
	if _, err := ParseNetworks([]string{"10.0.0.0/8", "x"}); err == nil {
		t.Error("a list with a wrong entry is accepted")
	}
}

// FuzzOrigin: what is read has one form, which is read as the same; a request is under a rule only if it
// has the rule's scheme, port and host.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example", "https://*.a.example:444", "fn:x", "http://x.internal", "http://[::1]:80", "http://１２７.1", "https://ＡＢ。example", "http://0x7f.1", "http://u@h"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, rule, target string) {
		r, err := ParseRule(rule)
		if err != nil {
			return
		}
		if again, err := ParseRule(r.String()); err != nil || again != r {
			t.Fatalf("%q: its form %q is read as %v, %v", rule, r, again, err)
		}
		u, err := url.Parse(target)
		if err != nil {
			return
		}
		o, err := Of(u)
		if err != nil {
			return
		}
		for _, c := range []byte(o.Host) {
			if c >= 0x80 || c >= 'A' && c <= 'Z' {
				t.Fatalf("%q goes to the host %q", target, o.Host)
			}
		}
		if r.Allows(o) && (o.Scheme != r.Scheme || o.Port != r.Port || !strings.HasSuffix(o.Host, r.Host) || !r.Below && o.Host != r.Host) {
			t.Fatalf("%s allows %s", r, o)
		}
	})
}
