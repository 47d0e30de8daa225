package perigee_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/perigee-edge/perigee"

// ours says which of our packages each of our packages may import, and why. "" is the root. What a
// package may import it may also do without. Tests are not bound by the table.
var ours = []struct {
	pkg    string
	may    []string
	reason string
}{
	{"", nil, "the vocabulary: no I/O, standard library only"},
	{"internal/digest", []string{""}, "computes digests for everybody, so it may need nobody"},
	{"internal/record", []string{"", "internal/digest"}, "the one codec; what records mean is gossip's business"},
	{"internal/strict", nil, "decodes TOML for manifests and settings"},
	{"internal/mutant", nil, "runs tests of other packages; for tests only"},
	{"internal/heap", nil, "how often garbage is collected; knows no nodes"},
	{"internal/handover", nil, "starts the next process; knows nothing of nodes"},
	{"internal/vfs", nil, "files that survive; what is in them is for their owners"},
	{"internal/wan", []string{""}, "distances know regions, not nodes"},
	{"internal/lab", []string{"", "internal/wan", "internal/lab/cluster", "internal/bundle", "internal/identity", "internal/record", "internal/wasmbin/wasmtest", "node"}, "runs the real binary in namespaces, for tests and measurements; looks at its clusters as an operator does"},
	{"internal/wasmbin", nil, "reads Wasm bytes and nothing else"},
	{"internal/origin", []string{""}, "names of the outside world; opens nothing"},
	{"internal/egress", []string{"", "internal/origin"}, "how functions reach origins and one another; knows no routes"},
	{"internal/identity", []string{"", "internal/digest", "internal/record"}, "keys, certificates, tokens"},
	{"internal/peerlink", []string{"", "internal/identity"}, "carries requests; does not know what is in them"},
	{"internal/bundle", []string{"", "internal/digest", "internal/strict", "internal/origin", "internal/vfs"}, "archives and manifests on one machine"},
	{"internal/backup", []string{"", "internal/digest", "internal/record"}, "the form of one file; knows neither state nor store"},
	{"internal/swarm", []string{""}, "pure: which slice to ask of whom; opens nothing"},
	{"configs", []string{"", "internal/strict", "internal/origin"}, "settings of one node"},
	{"placement", []string{""}, "pure: decides from a View, knows no network"},
	{"gossip", []string{"", "internal/digest", "internal/record", "internal/identity", "internal/vfs"}, "keeps the View; never decides"},
	{"runtime", []string{"", "internal/digest", "internal/wasmbin"}, "runs one function; knows no peers and no routes"},
	{"edgeproxy", []string{"", "placement"}, "from a client's socket to a response; peers are behind its interfaces"},
	{"usage", []string{""}, "a table in a file: knows keys and numbers, measures nothing"},
	{"node", []string{"", "configs", "edgeproxy/acme", "gossip", "placement", "runtime", "edgeproxy", "edgeproxy/dns", "edgeproxy/gateways", "edgeproxy/geo", "edgeproxy/measured", "edgeproxy/otlp", "usage", "internal/backup", "internal/bundle", "internal/digest", "internal/egress", "internal/handover", "internal/identity", "internal/origin", "internal/peerlink", "internal/record", "internal/swarm", "internal/vfs"}, "wires one machine"},
	{"internal/fleet", []string{"", "node", "internal/wan", "internal/record", "internal/bundle"}, "several nodes in one process, for `perigee dev` and tests"},
	{"internal/sim", []string{"", "edgeproxy", "gossip", "placement", "runtime/overload", "internal/wan", "internal/record", "internal/identity"}, "the pure cores in simulated worlds; for tests and figures only"},
	{"cmd/perigee", []string{"", "edgeproxy/acme", "node", "runtime", "placement", "configs", "internal/bundle", "internal/digest", "internal/handover", "internal/heap", "internal/identity", "internal/record", "internal/fleet", "internal/origin", "internal/strict", "edgeproxy"}, "the CLI: asks nodes, signs records"},
	{"internal/poison", []string{"", "node", "placement", "internal/bundle", "internal/record", "internal/wasmbin/wasmtest"}, "a cluster of processes and a revision that kills them; prints a figure"},
	{"internal/survive", []string{"", "gossip", "node", "usage", "internal/wasmbin/wasmtest", "internal/bundle", "internal/digest", "internal/identity", "internal/record", "internal/vfs", "internal/vfs/simdisk"}, "breaks what keeps things; for tests and measurements"},
}

// homes gives each third-party module the only packages of ours that may import it.
var homes = map[string][]string{
	"github.com/tetratelabs/wazero":        {"runtime"},
	"github.com/hashicorp/memberlist":      {"gossip"},
	"github.com/hashicorp/golang-lru/v2":   {"edgeproxy"},
	"github.com/caddyserver/certmagic":     {"edgeproxy"},
	"github.com/klauspost/compress":        {"edgeproxy"},
	"github.com/maypok86/otter/v2":         {"edgeproxy"},
	"github.com/andybalholm/brotli":        {"edgeproxy"},
	"go.opentelemetry.io/otel":             {"edgeproxy"},
	"github.com/miekg/dns":                 {"edgeproxy"},
	"github.com/oschwald/geoip2-golang":    {"edgeproxy"},
	"github.com/oschwald/maxminddb-golang": {"edgeproxy"},
	"go.uber.org/zap":                      {"edgeproxy"},
	"github.com/quic-go/quic-go":           {"internal/peerlink", "edgeproxy"},
	"github.com/pires/go-proxyproto":       {"edgeproxy"},
	"github.com/mholt/acmez":               {"edgeproxy"},
	"github.com/libdns/rfc2136":            {"edgeproxy"},
	"github.com/fxamacker/cbor/v2":         {"internal/record", "internal/peerlink", "internal/identity"},
	"lukechampine.com/blake3":              {"internal/digest"},
	"github.com/pelletier/go-toml/v2":      {"internal/strict"},
	"github.com/spf13/cobra":               {"cmd/perigee"},
	"github.com/spf13/pflag":               {"cmd/perigee"},
	"github.com/fsnotify/fsnotify":         {"cmd/perigee"},
	"golang.org/x/term":                    {"cmd/perigee"},
	"golang.org/x/net":                     {"internal/origin", "internal/handover", "edgeproxy"},
	"golang.org/x/sys":                     {"runtime", "internal/peerlink", "cmd/perigee", "edgeproxy", "node", "internal/lab", "internal/handover"},
	"golang.org/x/time":                    {"gossip", "edgeproxy", "internal/peerlink", "runtime", "node"},
	"golang.org/x/sync":                    {"gossip", "edgeproxy", "internal/peerlink", "runtime", "node", "cmd/perigee", "internal/fleet"},
	"github.com/prometheus/client_golang":  {"gossip", "edgeproxy", "internal/peerlink", "internal/egress", "runtime", "node", "internal/sim"},
}

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// TestImports holds the import graph against the two tables.
func TestImports(t *testing.T) {
	for _, p := range list(t) {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		i := slices.IndexFunc(ours, func(r struct {
			pkg    string
			may    []string
			reason string
		}) bool {
			return r.pkg == pkg || (r.pkg != "" && strings.HasPrefix(pkg, r.pkg+"/"))
		})
		if i < 0 {
			t.Errorf("package %q is not in the table of imports_test.go: give it a room and a reason", pkg)
			continue
		}
		row := ours[i]
		for _, imp := range p.Imports {
			rest, our := strings.CutPrefix(imp, module)
			rest = strings.TrimPrefix(rest, "/")
			switch {
			case our && (rest == row.pkg || strings.HasPrefix(rest, row.pkg+"/") && row.pkg != ""):
			case our && !slices.Contains(row.may, rest):
				t.Errorf("%s imports %s: not allowed, since %q is %q", p.ImportPath, imp, pkg, row.reason)
			case !our && strings.Contains(strings.Split(imp, "/")[0], "."):
				checkHome(t, row.pkg, imp)
			}
		}
	}
}

func checkHome(t *testing.T, pkg, imp string) {
	t.Helper()
	for mod, allowed := range homes {
		if imp == mod || strings.HasPrefix(imp, mod+"/") {
			if !slices.Contains(allowed, pkg) {
				t.Errorf("package %q imports %s, whose home is %v", pkg, imp, allowed)
			}
			return
		}
	}
	t.Errorf("package %q imports %s, which has no home in imports_test.go: add one on purpose, and a line in RATIONALE.md", pkg, imp)
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Standard,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
