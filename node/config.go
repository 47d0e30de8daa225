package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/internal/handover"
)

// Config says what a node is and where it listens. Zero values mean the defaults named. It is not
// changed after New.
type Config struct {
	Dir       Dir    // data directory, made by Found or Join; required
	Listen    string // UDP address of the mesh; default "0.0.0.0:7443"
	Advertise string // "IP:PORT" or ":PORT" where peers reach the mesh port; default: as it was at the join, else detected

	HTTPS        string // TCP address for clients; "" = off
	DisableHTTP3 bool   // default: HTTP/3 on the UDP port of HTTPS

	HTTP  string // plain TCP address, for load balancers and loopback; "" = off
	Admin string // TCP address of /livez, /readyz and /metrics; "" = off

	AdminSocket string   // path; default <Dir>/admin.sock
	CodeDir     string   // compiled code; default <Dir>/code. Nodes of one process may share it
	Admit       []string // command of the admission child, argv; default: this program with the argument "admit"

	MemoryBudget perigee.Bytes // of all guests together; default: half of the machine
	DiskReserve  perigee.Bytes // free bytes below which the disk counts as full; default 64 MiB
	MaxResponse  perigee.Bytes // of one response; default: runtime's
	GeoDatabases []string      // databases of clients' places, asked in this order
	DNS          string        // UDP and TCP address; "" = off
	DNSZones     []string      // default: the cluster's domain
	DNSServers   []string      // names in the zones' NS records; required with DNS

	NearerGateway  string                    // what clients hear of a much nearer gateway: "off" (default), "hint" or "redirect"
	GatewayDomains map[perigee.NodeID]string // domains at which one gateway alone is reached; required with "redirect"

	OutboundAllow []string // addresses that functions may reach although they are not public: ranges, IP or IP:PORT
	OutboundDeny  []string // addresses that functions may not reach; stronger than OutboundAllow

	MaxConns      int            // open connections of clients; default: edgeproxy's
	MaxConnsPerIP int            // of one client; default: edgeproxy's
	MinBodyRate   int64          // bytes a second that a request's body must come with; default: edgeproxy's, negative = any
	TraceEndpoint string         // URL of a collector of OpenTelemetry traces; "" = none
	TraceSample   float64        // part of the requests without a trace that begin a sampled one, 0 to 1
	CacheSize     int64          // bytes of stored responses; default: edgeproxy's, negative = none
	NoCompression bool           // bodies go as functions wrote them
	ACME          acme.Config    // the public CA for web certificates; without a Directory: none, the cluster's own CA does
	AccessLog     io.Writer      // gets a line of JSON per request; nil = none
	ProxyProtocol []netip.Prefix // load balancers that begin each TCP connection with a PROXY header
	Trusted       []netip.Prefix // proxies whose X-Forwarded-For and X-Forwarded-Proto are believed

	Trial        time.Duration // how long a new revision is watched before it goes on to more nodes; default 2 s
	DrainTimeout time.Duration // for running requests at a stop; default 30 s
	Receipt      string        // for functions that name none: "full", "region" (default) or "off"
	Steer        string        // the most that any function may let its clients choose: "off", "prefer" or "force" (default)

	// Command is the argv that starts this node again, which an upgrade needs; none: no upgrades. With
	// "--check" after it, it says whether it would start.
	Command     []string
	Predecessor *handover.Predecessor // the process to take over from; nil = none

	Socket  net.PacketConn // mesh socket made by the caller instead of Listen; the node closes it, also when New fails
	OnHTTPS net.Listener   // listener made by the caller instead of HTTPS; likewise
	OnHTTP  net.Listener   // listener made by the caller instead of HTTP; likewise
	OnHTTP3 net.PacketConn // socket made by the caller for HTTP/3; likewise

	Logger *slog.Logger // nil = slog.Default()
}

const (
	defaultListen = "0.0.0.0:7443"
	defaultDrain  = 30 * time.Second
)

func (c Config) fill() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("node: Dir is empty: name the data directory")
	}
	if c.DrainTimeout < 0 {
		return c, fmt.Errorf("node: DrainTimeout is %v: want 0 or more", c.DrainTimeout)
	}
	if c.Listen == "" {
		c.Listen = defaultListen
	}
	if c.AdminSocket == "" {
		c.AdminSocket = SocketPath(c.Dir.Socket())
	}
	if c.CodeDir == "" {
		c.CodeDir = c.Dir.path("code")
	}
	if c.MemoryBudget == 0 {
		c.MemoryBudget = machineMemory() / 2 // 0 where it can't be told: runtime's default
	}
	if c.DiskReserve < 0 {
		return c, fmt.Errorf("node: DiskReserve is %s: want 0 or more", c.DiskReserve)
	}
	if c.DiskReserve == 0 {
		c.DiskReserve = defaultReserve
	}
	if c.Trial < 0 {
		return c, fmt.Errorf("node: Trial is %v: want 0 or more", c.Trial)
	}
	if c.Trial == 0 {
		c.Trial = defaultTrial
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = defaultDrain
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}
