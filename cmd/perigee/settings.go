package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/perigee-edge/perigee/configs"
)

// settings are the keys of a new node.toml that flags may set. An existing file is never changed.
type settings struct {
	flags  *pflag.FlagSet
	values [9]string // by the index in settingKeys
}

// settingKeys are the keys of node.toml that have a flag, and where node.toml's reader puts them.
var settingKeys = [9]struct {
	key, flag, usage string
	of               func(*configs.Node) *string
}{
	{"listen", "listen", "`ADDRESS` of the mesh, UDP", func(n *configs.Node) *string { return &n.Listen }},
	{"advertise", "advertise", "`IP:PORT` where other nodes reach that port (default as the cluster sees it)", func(n *configs.Node) *string { return &n.Advertise }},
	{"https", "https", "`ADDRESS` for clients, TCP", func(n *configs.Node) *string { return &n.HTTPS }},
	{"http", "http", "`ADDRESS` for plain HTTP, TCP", func(n *configs.Node) *string { return &n.HTTP }},
	{"acme_email", "acme-email", "`ADDRESS` of mail: get certificates for hosts from a public CA", func(n *configs.Node) *string { return &n.ACMEEmail }},
	{"acme_directory", "acme-directory", "`URL` of that CA", func(n *configs.Node) *string { return &n.ACMEDirectory }},
	{"acme_roots", "acme-roots", "PEM `FILE` of what that CA's own certificate leads to (default the system's)", func(n *configs.Node) *string { return &n.ACMERoots }},
	{"acme_eab", "acme-eab", "`ID:KEY` of an account that the CA knows already", func(n *configs.Node) *string { return &n.ACMEEAB }},
	{"admin_http", "admin-http", "`ADDRESS` of /livez, /readyz and /metrics, TCP", func(n *configs.Node) *string { return &n.AdminHTTP }},
}

const settingsHelp = `The flags --listen, --advertise, --https, --http, --admin-http and --acme-… are written to the new node.toml,
and "" turns an address off. A node.toml that is there is not changed.`

func (s *settings) add(f *pflag.FlagSet) {
	s.flags = f
	defaults := configs.Default()
	for i, k := range settingKeys {
		usage := k.usage
		if d := *k.of(&defaults); d != "" {
			usage += fmt.Sprintf(" (default %q)", d)
		}
		f.StringVar(&s.values[i], k.flag, "", usage)
	}
}

// text is a node.toml with the keys that were given; docs/config.md lists all.
func (s *settings) text(path string) []byte {
	data := "data" // beside the file, unless that is the system's
	if filepath.Dir(path) == filepath.Dir(systemConfig) {
		data = configs.Default().DataDir
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Settings of this node. Every key with its default and its reason: docs/config.md.\ndata_dir = %q\n", data)
	for i, k := range settingKeys {
		if s.flags.Changed(k.flag) {
			fmt.Fprintf(&b, "%s = %q\n", k.key, s.values[i])
		}
	}
	return []byte(b.String())
}

// load reads the settings of path, or, while there are none, those that the flags give; fresh then
// says that the file is to be written once this machine is a member.
func (s *settings) load(path string, warn io.Writer) (cfg configs.Node, fresh bool, err error) {
	if !exists(path) {
		cfg, err = s.parse(path)
		return cfg, true, err
	}
	if cfg, err = configs.Load(path); err != nil {
		return cfg, false, err
	}
	for i, k := range settingKeys {
		if has := *k.of(&cfg); s.flags.Changed(k.flag) && has != s.values[i] {
			fmt.Fprintf(warn, "--%s %s is not used: %s is there and says %s = %q: change it there\n", k.flag, s.values[i], path, k.key, has)
		}
	}
	return cfg, false, nil
}

// parse reads what the flags give, before anything is written.
func (s *settings) parse(path string) (configs.Node, error) {
	cfg, err := configs.Parse("", s.text(path))
	if err != nil {
		return cfg, usagef("settings from the flags: %w", err)
	}
	return cfg, nil
}

// labelFlag adds --label, for a node that is made.
func labelFlag(f *pflag.FlagSet, labels *map[string]string) {
	f.StringToStringVar(labels, "label", nil, "`KEY=VALUE` label of the node, for placement rules; may be given several times")
	f.Lookup("label").DefValue = ""
}

// write makes the file.
func (s *settings) write(path string) error { return os.WriteFile(path, s.text(path), 0o644) }
