package configs

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/strict"
)

//go:embed node.toml
var sample []byte

//go:embed perigee.service
var unit string

// TestSample holds node.toml against Default: it shows every key, with its default.
func TestSample(t *testing.T) {
	var shown Node // without defaults, so that a key that is not shown is zero
	if _, err := strict.Decode("node.toml", sample, &shown); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shown, Default()) {
		t.Errorf("node.toml and Default differ:\n%+v\n%+v", shown, Default())
	}
	for _, key := range strict.Keys(Node{}) {
		line := regexp.MustCompile(`(?m)^# .*\n` + key + ` = `)
		if len(line.FindAll(sample, -1)) != 1 {
			t.Errorf("node.toml must show %s once, below a comment that gives the reason", key)
		}
	}
	if n, err := Parse("node.toml", sample); err != nil || !reflect.DeepEqual(n, Default()) {
		t.Errorf("parsed: %+v, %v", n, err)
	}
}

func TestParse(t *testing.T) {
	if n, err := Parse("f.toml", nil); err != nil || !reflect.DeepEqual(n, Default()) {
		t.Errorf("an empty file: %+v, %v", n, err)
	}
	n, err := Parse("f.toml", []byte(`
id = "fra-1"
data_dir = "data"
listen = "[::]:0"
advertise = ":17443"
https = ""
http = "0.0.0.0:80"
admin_http = ""
memory = "2GiB"
drain_timeout = "1m"
log_level = "debug"
`))
	want := Default()
	want.ID, want.DataDir, want.Listen, want.Advertise, want.HTTPS, want.HTTP, want.AdminHTTP = "fra-1", "data", "[::]:0", ":17443", "", "0.0.0.0:80", ""
	want.Memory, want.DrainTimeout, want.LogLevel = 2*perigee.GiB, perigee.Duration(time.Minute), "debug"
	if err != nil || !reflect.DeepEqual(n, want) {
		t.Errorf("got  %+v, %v\nwant %+v", n, err, want)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"lsiten = ':1'", `f.toml:1:1: unknown key "lsiten" at the top level; did you mean "listen"?`},
		{"region = 'fra'", `f.toml:1:1: unknown key "region" at the top level; known: access_log, `},
		{"[mesh]\nlisten = ':1'", `f.toml:1:2: unknown key "mesh" at the top level; known: access_log, `},
		{"id = 'Fra'", `f.toml:1:1: id: "Fra" contains 'F'`},
		{"data_dir = ''", `f.toml:1:1: data_dir: the path is empty`},
		{"listen = ''", `f.toml:1:1: listen: a node can't do without the mesh: use an address like "0.0.0.0:7443"`},
		{"listen = '7443'", `f.toml:1:1: listen: "7443" is no address: write "IP:PORT"`},
		{"https = 'localhost:443'", `f.toml:1:1: https: "localhost" is no IP address`},
		{"http = ':http'", `f.toml:1:1: http: port "http" is not a number`},
		{"admin_http = ':65536'", `f.toml:1:1: admin_http: port "65536" is not a number from 0 to 65535`},
		{"advertise = '203.0.113.5'", `f.toml:1:1: advertise: "203.0.113.5" is no address`},
		{"advertise = '0.0.0.0:7443'", `f.toml:1:1: advertise: "0.0.0.0" is no IP address that others can reach`},
		{"advertise = 'node.example:7443'", `f.toml:1:1: advertise: "node.example" is no IP address`},
		{"advertise = '203.0.113.5:0'", `f.toml:1:1: advertise: port 0 is no port`},
		{"advertise = '[fe80::1%eth0]:7443'", `f.toml:1:1: advertise: "fe80::1%eth0" is no IP address`},
		{"receipt = 'none'", `f.toml:1:1: receipt: "none" is not a choice: use one of ["full" "region" "off"]`},
		{"steer = 'forse'", `f.toml:1:1: steer: "forse" is not a choice: use one of ["off" "prefer" "force"] (did you mean "force"?)`},
		{"nearer_gateway = 'redirect'", `f.toml: gateway_domains: redirects need a domain for each gateway`},
		{"gateway_domains = ['syd-1']", `f.toml:1:1: gateway_domains[0]: "syd-1": write "NODE=DOMAIN"`},
		{"memory = '1MiB'", `f.toml:1:1: memory: 1MiB is less than one function needs: use at least 64MiB`},
		{"memory = 100", `f.toml:1:1: memory: got a whole number: want a value with its unit, in double quotes`},
		{"max_response = '0B'", `f.toml:1:1: max_response: 0B leaves room for no response`},
		{"trial_time = '0'", `f.toml:1:1: trial_time: 0s would let a new revision run everywhere unseen`},
		{"disk_reserve = '1KiB'", `f.toml:1:1: disk_reserve: 1KiB leaves no room for the cluster's records: use at least 1MiB`},
		{"drain_timeout = '0'", `f.toml:1:1: drain_timeout: 0s would cut off every running request`},
		{"log_level = 'verbose'", `f.toml:1:1: log_level: "verbose" is not a choice`},
		{"outbound_allow = ['10.0.0.0/8', 'localhost']", `f.toml:1:1: outbound_allow[1]: "localhost" is no address`},
		{"outbound_deny = ['10.0.0.1/8']", `f.toml:1:1: outbound_deny[0]: "10.0.0.1/8" has bits behind its length: write 10.0.0.0/8`},
		{"acme_email = 'me'", `f.toml:1:1: acme_email: "me" is no address of mail`},
		{"acme_directory = 'http://ca'", `f.toml:1:1: acme_directory: "http://ca" is no https:// URL`},
		{"acme_eab = 'x'", `f.toml:1:1: acme_eab: write the key's id`},
		{"acme_dns = 'ns1'", `f.toml:1:1: acme_dns: "ns1" is no address: write "HOST:PORT"`},
		{"acme_dns = 'ns1:53'\nacme_dns_key = 'a:b:c'\nacme_dns_resolvers = ['ns2']", `f.toml:3:1: acme_dns_resolvers[0]: "ns2" is no address: write "HOST:PORT"`},
		{"acme_dns = 'ns1:53'", `f.toml: acme_dns_key: write "NAME:ALGORITHM:SECRET"`},
		{"proxy_protocol = ['lb']", `f.toml:1:1: proxy_protocol[0]: "lb" is no range or address`},
		{"trusted_proxies = ['10.0.0.1/8']", `f.toml:1:1: trusted_proxies[0]: "10.0.0.1/8" has bits behind its length: write 10.0.0.0/8`},
		{"max_connections = 0", `f.toml:1:1: max_connections: 0 connections would shut everybody out: use a number like 20000`},
		{"max_connections_per_ip = 0", `f.toml:1:1: max_connections_per_ip: 0 connections would shut everybody out`},
		{"log_format = ''", `f.toml:1:1: log_format: "" is not a choice: use one of ["text" "json"]`},
	} {
		if _, err := Parse("f.toml", []byte(tt.text)); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.text, err, tt.want)
		}
	}
	_, err := Parse("f.toml", []byte("id = ''\nsteer = 'x'\nhttp = 'y'"))
	if got := fmt.Sprint(err); strings.Count(got, "\n") != 1 || !strings.Contains(got, "f.toml:2:1: steer: ") || !strings.Contains(got, "f.toml:3:1: http: ") {
		t.Errorf("two mistakes: got %v", err)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.toml")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
	if err := os.WriteFile(path, []byte("\nhttps = 'x'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":2:1: https: ") {
		t.Errorf("bad file: got %v", err)
	}
	if err := os.WriteFile(path, sample, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Load(path); err != nil || !reflect.DeepEqual(n, Default()) {
		t.Errorf("got %+v, %v", n, err)
	}
}

// TestDoc holds docs/config.md against the settings: every key once, with its default.
func TestDoc(t *testing.T) {
	doc, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| `([^`]*)` \\|").FindAllStringSubmatch(string(doc), -1) {
		keys = append(keys, row[1])
		if !strings.Contains(string(sample), "\n"+row[1]+" = "+row[2]+"\n") {
			t.Errorf("docs/config.md says that the default of %s is %s; node.toml does not", row[1], row[2])
		}
	}
	want := strict.Keys(Node{})
	slices.Sort(keys)
	slices.Sort(want)
	if !slices.Equal(keys, want) {
		t.Errorf("docs/config.md has rows for\n%v\nthe settings are\n%v", keys, want)
	}
}

// TestUnit holds perigee.service against the settings and the command line.
func TestUnit(t *testing.T) {
	setting := func(key string) string {
		found := regexp.MustCompile(`(?m)^`+key+`=(.*)$`).FindAllStringSubmatch(unit, -1)
		if len(found) != 1 {
			t.Fatalf("%s is set %d times", key, len(found))
		}
		return found[0][1]
	}
	for key, want := range map[string]string{
		"ExecStart":           "/usr/local/bin/perigee node run --config /etc/perigee/node.toml",
		"Restart":             "always",
		"AmbientCapabilities": "CAP_NET_BIND_SERVICE",
		"OOMPolicy":           "continue",
	} {
		if got := setting(key); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	if got := "/var/lib/" + setting("StateDirectory"); got != Default().DataDir {
		t.Errorf("the unit keeps state in %s, the settings in %s", got, Default().DataDir)
	}
	stop, err := time.ParseDuration(setting("TimeoutStopSec"))
	if err != nil || stop <= time.Duration(Default().DrainTimeout) {
		t.Errorf("systemd waits %v (%v), the node drains for %v", stop, err, Default().DrainTimeout)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add([]byte("advertise = ':1'\nmemory = '1GiB'"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := Parse("f.toml", b)
		if err == nil && n.Check() != nil {
			t.Fatalf("accepted, then refused: %v", n.Check())
		}
		if err != nil && (len(err.Error()) > 32<<10 || !strings.HasPrefix(err.Error(), "f.toml:")) {
			t.Fatalf("error %.200q", err.Error())
		}
	})
}
