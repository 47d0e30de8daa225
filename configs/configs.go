// Package configs is the settings file of a node, node.toml: its keys, their defaults and their
// rules. The file node.toml beside it shows all of them, and docs/config.md lists them. What the
// settings do is the business of the packages that get them; region, zone and roles are no
// settings, since the node's certificate says them.
//
// The folder also has perigee.service, the unit for systemd.
package configs

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/origin"
	"github.com/perigee-edge/perigee/internal/strict"
)

// Node is the settings of one node. A key that the file leaves out has its value of Default, so a
// field that is empty or zero was written so, and means what its comment says.
type Node struct {
	ID      string `toml:"id"`       // name to ask for when the node joins; "" = the cluster chooses
	DataDir string `toml:"data_dir"` // everything the node keeps; relative = beside the settings file

	Listen    string `toml:"listen"`    // UDP address of the mesh
	Advertise string `toml:"advertise"` // "IP:PORT" or ":PORT" where other nodes reach it; "" = detect

	HTTPS string `toml:"https"` // TCP address for clients; "" = off
	HTTP3 bool   `toml:"http3"` // HTTP/3 too, on the UDP port of HTTPS
	HTTP  string `toml:"http"`  // TCP address without TLS; "" = off

	ACMEEmail      string   `toml:"acme_email"`         // "" = no public CA
	ACMEDirectory  string   `toml:"acme_directory"`     // URL of the CA
	ACMERoots      string   `toml:"acme_roots"`         // PEM file of what the CA's own certificate leads to; "" = the system's
	ACMEEAB        string   `toml:"acme_eab"`           // "ID:KEY" of an account that the CA knows already; "" = none
	ACMEDNS        string   `toml:"acme_dns"`           // "IP:PORT" of a name server that takes updates; "" = no wildcards
	ACMEDNSKey     string   `toml:"acme_dns_key"`       // "NAME:ALGORITHM:SECRET" that signs them
	ACMEResolvers  []string `toml:"acme_dns_resolvers"` // "HOST:PORT" each, asked about the zone; empty = the system's, and the zone's own servers
	ProxyProtocol  []string `toml:"proxy_protocol"`     // load balancers that begin each connection with a PROXY header
	TrustedProxies []string `toml:"trusted_proxies"`    // proxies whose X-Forwarded-For and X-Forwarded-Proto are believed

	AdminSocket string `toml:"admin_socket"` // path; "" = <data_dir>/admin.sock, relative = beside the settings file
	AdminHTTP   string `toml:"admin_http"`   // TCP address of /livez, /readyz and /metrics; "" = off

	Receipt string `toml:"receipt"` // for functions that name none: "full", "region" or "off"
	Steer   string `toml:"steer"`   // the most that any function may allow: "off", "prefer" or "force"

	GeoDatabases []string `toml:"geo_databases"` // paths; relative = beside the settings file
	DNS          string   `toml:"dns"`           // UDP and TCP address; "" = off
	DNSZones     []string `toml:"dns_zones"`     // none = the cluster's domain
	DNSServers   []string `toml:"dns_servers"`   // names in the zones' NS records; required with DNS

	NearerGateway  string   `toml:"nearer_gateway"`  // "off", "hint" or "redirect"
	GatewayDomains []string `toml:"gateway_domains"` // "NODE=DOMAIN"; required with "redirect"

	OutboundAllow []string `toml:"outbound_allow"` // addresses that functions may reach although they are not public
	OutboundDeny  []string `toml:"outbound_deny"`  // addresses that functions may not reach; stronger than outbound_allow

	Memory       perigee.Bytes    `toml:"memory"`        // of all guests together; 0 = half of the machine
	DiskReserve  perigee.Bytes    `toml:"disk_reserve"`  // free bytes below which the disk counts as full
	MaxResponse  perigee.Bytes    `toml:"max_response"`  // body of one response
	DrainTimeout perigee.Duration `toml:"drain_timeout"` // for running requests at a stop
	TrialTime    perigee.Duration `toml:"trial_time"`    // how long a new revision is watched before it goes on to more nodes

	MaxConnections      int           `toml:"max_connections"`        // open connections of clients
	MaxConnectionsPerIP int           `toml:"max_connections_per_ip"` // of one client
	MinBodyRate         perigee.Bytes `toml:"min_body_rate"`          // a second, of a request's body; 0 = as slow as it likes

	TraceEndpoint string `toml:"trace_endpoint"` // URL of a collector of OpenTelemetry traces; "" = none
	TraceOneOf    int    `toml:"trace_one_of"`   // so many requests without a trace: one begins a sampled one; 0 = none does

	Cache    perigee.Bytes `toml:"cache"`    // responses stored for other clients, of functions that allow it; 0 = none
	Compress bool          `toml:"compress"` // bodies for clients that ask for zstd, br or gzip

	LogLevel  string `toml:"log_level"`  // "debug", "info", "warn" or "error"
	LogFormat string `toml:"log_format"` // "text" or "json"
	AccessLog string `toml:"access_log"` // file; "" = none, "-" = standard output
}

// Default returns the settings of an empty file.
func Default() Node {
	return Node{
		DataDir:      "/var/lib/perigee",
		GeoDatabases: []string{}, DNSZones: []string{}, DNSServers: []string{},
		NearerGateway: "off", GatewayDomains: []string{},
		OutboundAllow: []string{},
		OutboundDeny:  []string{},
		Listen:        "0.0.0.0:7443",
		HTTPS:         ":443",
		HTTP3:         true,
		HTTP:          "127.0.0.1:8080",
		AdminHTTP:     "127.0.0.1:9443",
		Receipt:       "region",
		Steer:         "force",
		MaxResponse:   64 * perigee.MiB,
		DrainTimeout:  perigee.Duration(30 * time.Second),
		TrialTime:     perigee.Duration(2 * time.Second),
		DiskReserve:   64 * perigee.MiB,

		ACMEDirectory:       "https://acme-v02.api.letsencrypt.org/directory",
		ProxyProtocol:       []string{},
		TrustedProxies:      []string{},
		ACMEResolvers:       []string{},
		MaxConnections:      20_000,
		MaxConnectionsPerIP: 500,
		MinBodyRate:         128,
		Cache:               64 * perigee.MiB,
		Compress:            true,
		LogLevel:            "info",
		LogFormat:           "text",
	}
}

// Load reads and checks a settings file.
func Load(path string) (Node, error) {
	b, err := strict.ReadFile(path)
	if err != nil {
		return Node{}, fmt.Errorf("read settings: %w", err)
	}
	return Parse(path, b)
}

// Parse decodes and checks settings. The file name is only for errors, which name the line, the
// key and the rule; all that is wrong is reported at once.
func Parse(file string, b []byte) (Node, error) {
	n := Default()
	doc, err := strict.Decode(file, b, &n)
	if err != nil {
		return Node{}, err
	}
	if err := n.Check(); err != nil {
		return Node{}, doc.Place(err)
	}
	return n, nil
}

const (
	minMemory  = 64 * perigee.MiB
	minReserve = perigee.MiB
)

// Check holds settings against their rules, without looking at the machine. The error lists
// everything that is wrong.
func (n Node) Check() error {
	var ps strict.Problems
	if n.ID != "" {
		if err := perigee.CheckLabel(n.ID); err != nil {
			ps.Add("id", "%v", err)
		}
	}
	if n.DataDir == "" {
		ps.Add("data_dir", "the path is empty: name the directory that the node keeps everything in")
	}
	if n.Listen == "" {
		ps.Add("listen", "a node can't do without the mesh: use an address like %q", Default().Listen)
	}
	for _, a := range []struct{ key, addr string }{{"listen", n.Listen}, {"https", n.HTTPS}, {"http", n.HTTP}, {"admin_http", n.AdminHTTP}, {"dns", n.DNS}} {
		if err := checkListen(a.addr); a.addr != "" && err != nil {
			ps.Add(a.key, "%v", err)
		}
	}
	if err := checkAdvertise(n.Advertise); n.Advertise != "" && err != nil {
		ps.Add("advertise", "%v", err)
	}
	choice(&ps, "receipt", n.Receipt, "full", "region", "off")
	choice(&ps, "steer", n.Steer, "off", "prefer", "force")
	n.checkDNS(&ps)
	n.checkNearer(&ps)
	networks(&ps, "outbound_allow", n.OutboundAllow)
	networks(&ps, "outbound_deny", n.OutboundDeny)
	if n.Memory != 0 && n.Memory < minMemory {
		ps.Add("memory", `%s is less than one function needs: use at least %s, or "0B" for half of the machine`, n.Memory, minMemory)
	}
	if n.MaxResponse <= 0 {
		ps.Add("max_response", "%s leaves room for no response: use a size like %q", n.MaxResponse, Default().MaxResponse)
	}
	n.checkACME(&ps)
	prefixes(&ps, "proxy_protocol", n.ProxyProtocol)
	prefixes(&ps, "trusted_proxies", n.TrustedProxies)
	if n.MaxConnections < 1 {
		ps.Add("max_connections", "%d connections would shut everybody out: use a number like %d", n.MaxConnections, Default().MaxConnections)
	}
	if n.MaxConnectionsPerIP < 1 {
		ps.Add("max_connections_per_ip", "%d connections would shut everybody out: use a number like %d", n.MaxConnectionsPerIP, Default().MaxConnectionsPerIP)
	}
	if u, err := url.Parse(n.TraceEndpoint); n.TraceEndpoint != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		ps.Add("trace_endpoint", `%.80q is no URL of a collector: write one like "http://127.0.0.1:4318/v1/traces"`, n.TraceEndpoint)
	}
	if n.TraceOneOf < 0 {
		ps.Add("trace_one_of", "%d is no number of requests: use one like 100, or 0 to trace only what clients ask for", n.TraceOneOf)
	}
	if n.Cache != 0 && n.Cache < perigee.MiB {
		ps.Add("cache", `%s is too little to be of use: use at least "1MiB", or "0B" for none`, n.Cache)
	}
	if n.MinBodyRate < 0 {
		ps.Add("min_body_rate", `%s is less than nothing: use "0B" for as slow as clients like`, n.MinBodyRate)
	}
	if n.DrainTimeout <= 0 {
		ps.Add("drain_timeout", `%s would cut off every running request: use a time like "30s"`, n.DrainTimeout)
	}
	if n.TrialTime <= 0 {
		ps.Add("trial_time", `%s would let a new revision run everywhere unseen: use a time like "2s"`, n.TrialTime)
	}
	if n.DiskReserve < minReserve {
		ps.Add("disk_reserve", "%s leaves no room for the cluster's records: use at least %s", n.DiskReserve, minReserve)
	}
	choice(&ps, "log_level", n.LogLevel, "debug", "info", "warn", "error")
	choice(&ps, "log_format", n.LogFormat, "text", "json")
	return ps.Err()
}

// checkDNS holds the names of zones and servers against the rules.
func (n Node) checkDNS(ps *strict.Problems) {
	for i, path := range n.GeoDatabases {
		if path == "" {
			ps.Add(fmt.Sprintf("geo_databases[%d]", i), "the path is empty: name a file, or leave the entry out")
		}
	}
	for _, list := range []struct {
		key   string
		names []string
	}{{"dns_zones", n.DNSZones}, {"dns_servers", n.DNSServers}} {
		for i, name := range list.names {
			if err := perigee.CheckHost(name); err != nil {
				ps.Add(fmt.Sprintf("%s[%d]", list.key, i), "%v", err)
			}
		}
	}
	if n.DNS != "" && len(n.DNSServers) == 0 {
		ps.Add("dns_servers", `dns needs the names that the zone above delegates to: write them, like ["ns1.example.com"]`)
	}
}

// checkNearer holds the domains of gateways against the rules.
func (n Node) checkNearer(ps *strict.Problems) {
	choice(ps, "nearer_gateway", n.NearerGateway, "off", "hint", "redirect")
	for i, s := range n.GatewayDomains {
		id, domain, _ := strings.Cut(s, "=")
		err := cmp.Or(perigee.CheckLabel(id), perigee.CheckHost(domain))
		if err != nil {
			ps.Add(fmt.Sprintf("gateway_domains[%d]", i), `%.80q: write "NODE=DOMAIN", like "syd-1=syd.example.com": %v`, s, err)
		}
	}
	if n.NearerGateway == "redirect" && len(n.GatewayDomains) == 0 {
		ps.Add("gateway_domains", `redirects need a domain for each gateway that they go to: write them, like ["syd-1=syd.example.com"]`)
	}
}

// Domains returns the domains of gateways, by node, from a list that was checked.
func Domains(list []string) map[perigee.NodeID]string {
	out := map[perigee.NodeID]string{}
	for _, s := range list {
		id, domain, _ := strings.Cut(s, "=")
		out[perigee.NodeID(id)] = domain
	}
	return out
}

// checkListen reports why s is not an address to listen on.
func checkListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf(`%.80q is no address: write "IP:PORT", or ":PORT" for all of the machine's addresses`, s)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil {
		return fmt.Errorf("%.80q is no IP address: names are not looked up here", host)
	}
	return checkPort(port)
}

// checkAdvertise reports why s is not an address that other nodes can reach.
func checkAdvertise(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf(`%.80q is no address: write "IP:PORT", or ":PORT" if only the port is another`, s)
	}
	if addr, err := netip.ParseAddr(host); host != "" && (err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "") {
		return fmt.Errorf("%.80q is no IP address that others can reach: write the public one of this machine", host)
	}
	if port == "0" {
		return fmt.Errorf("port 0 is no port that others can reach: write the one of listen, or the one that is forwarded to it")
	}
	return checkPort(port)
}

func checkPort(s string) error {
	if _, err := strconv.ParseUint(s, 10, 16); err != nil {
		return fmt.Errorf("port %.80q is not a number from 0 to 65535", s)
	}
	return nil
}

// networks refuses entries that are no addresses.
func networks(ps *strict.Problems, key string, list []string) {
	for i, s := range list {
		if _, err := origin.ParseNetwork(s); err != nil {
			ps.Add(fmt.Sprintf("%s[%d]", key, i), "%v", err)
		}
	}
}

// checkACME refuses what no CA and no name server could be asked with.
func (n *Node) checkACME(ps *strict.Problems) {
	if at := strings.IndexByte(n.ACMEEmail, '@'); n.ACMEEmail != "" && (at < 1 || at == len(n.ACMEEmail)-1) {
		ps.Add("acme_email", "%.80q is no address of mail", n.ACMEEmail)
	}
	if u, err := url.Parse(n.ACMEDirectory); err != nil || u.Scheme != "https" || u.Host == "" {
		ps.Add("acme_directory", `%.80q is no https:// URL`, n.ACMEDirectory)
	}
	if id, key, ok := strings.Cut(n.ACMEEAB, ":"); n.ACMEEAB != "" && (!ok || id == "" || key == "") {
		ps.Add("acme_eab", `write the key's id, ":" and the key, as the CA gave them`)
	}
	if n.ACMEDNS == "" {
		return
	}
	if host, _, err := net.SplitHostPort(n.ACMEDNS); err != nil || host == "" {
		ps.Add("acme_dns", `%.80q is no address: write "HOST:PORT"`, n.ACMEDNS)
	}
	for i, addr := range n.ACMEResolvers {
		if host, _, err := net.SplitHostPort(addr); err != nil || host == "" {
			ps.Add(fmt.Sprintf("acme_dns_resolvers[%d]", i), `%.80q is no address: write "HOST:PORT"`, addr)
		}
	}
	if strings.Count(n.ACMEDNSKey, ":") != 2 {
		ps.Add("acme_dns_key", `write "NAME:ALGORITHM:SECRET", for example "perigee.:hmac-sha256:c2VjcmV0"`)
	}
}

// prefixes refuses entries that are neither a range nor an address.
func prefixes(ps *strict.Problems, key string, list []string) {
	for i, s := range list {
		if _, err := parsePrefix(s); err != nil {
			ps.Add(fmt.Sprintf("%s[%d]", key, i), "%v", err)
		}
	}
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf(`%.80q is no range or address: write "10.1.0.0/16" or "10.1.2.3"`, s)
	case p != p.Masked():
		return p, fmt.Errorf("%.80q has bits behind its length: write %s", s, p.Masked())
	}
	return p, nil
}

// Prefixes returns a list of ranges and addresses that was checked.
func Prefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := parsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// choice refuses a value that is not one of those allowed.
func choice(ps *strict.Problems, key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := ""
	if near := strict.Near(value, allowed); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	ps.Add(key, "%.80q is not a choice: use one of %q%s", value, allowed, hint)
}
