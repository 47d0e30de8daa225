// Package node is one machine of the fleet: it wires the parts together, starts and stops them in
// order, takes deploys, replicates bundles, lets other machines join and answers administration.
//
// It does not serve a client's request itself (edgeproxy does), decide where anything runs
// (placement does) or keep the cluster's state (gossip does). Nodes are ordinary values: several
// can run in one process. New starts nothing; Run owns every goroutine and returns when all have
// ended.
//
// Control paths on the mesh, beside those of gossip: /bundles… (bundles.go), /reach (reach.go),
// /web/sign (websign.go), /web/… (certapi.go), /usage (used.go), /explain (explain.go), /logs/… (logs.go),
// /distances (distances.go). The join protocol is in joinwire.go, the administration API in api.go, the
// data directory in dir.go.
package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/edgeproxy/dns"
	"github.com/perigee-edge/perigee/edgeproxy/gateways"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
	"github.com/perigee-edge/perigee/edgeproxy/otlp"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/egress"
	"github.com/perigee-edge/perigee/internal/handover"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
	"github.com/perigee-edge/perigee/usage"
)

// ErrRemoved is returned by New and Run when an operator has removed this node from the cluster.
var ErrRemoved = errors.New("this node was removed from the cluster: delete its data directory, or join again as another node")

// ErrSuperseded is returned by Run when the cluster was restored from a backup, without this node.
var ErrSuperseded = errors.New("the cluster was restored from a backup: delete this node's data directory, and join again")

// Node is one machine. Make it with New, then call Run once, or Close.
type Node struct {
	cfg      Config
	log      *slog.Logger
	m        *membership
	registry *prometheus.Registry
	seeds    seedFile
	disk     *disk

	link     *peerlink.Link
	meshTCP  net.Listener // the mesh port over TCP; nil = none
	noTCP    string       // why there is none; "" = there is one, or is not to be
	standing *standing
	gossip   *gossip.Gossip
	runtime  *runtime.Runtime
	egress   *egress.Egress
	proxy    *edgeproxy.Proxy
	locator  *geo.Locator

	distances *distances
	gateways  *gateways.Chooser
	dns       *dns.Server // nil = off
	plans     *plans
	trials    *trials
	rollouts  *rollouts
	secrets   *secrets
	rep       *replicator
	deployer  *deployer
	renewer   *renewer
	issuer    *issuer
	webCerts  *webCerts
	tickets   *tickets
	traces    *otlp.Exporter // nil = none are sent

	usage     *usage.Table
	lines     *lines
	followers atomic.Int32 // of lines
	rotten    atomic.Int32 // files that a scrub found changed

	admin     net.Listener // unix socket
	health    net.Listener // nil = off
	readiness readiness

	advertised netip.AddrPort // where peers reach the mesh port

	mark     handover.Mark // of this process's QUIC connections
	upgrades chan string   // programs that are to take over; Run takes them
	upgrade  upgradeState
	frozen   atomic.Bool // another process has the directory; what runs here ends

	ran    atomic.Bool
	closed sync.Once
	unlock func() // of the data directory
}

// New opens the data directory and the sockets, and wires the parts. Nothing runs yet.
func New(cfg Config) (_ *Node, err error) {
	n := &Node{cfg: cfg, registry: prometheus.NewRegistry(), mark: handover.NewMark(), upgrades: make(chan string)}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.cfg, err = cfg.fill(); err != nil {
		return nil, err
	}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if n.unlock, err = lock(n.cfg.Dir.path(fileLock)); err != nil {
		return nil, err
	}
	if n.m, n.seeds, err = n.cfg.Dir.load(); err != nil {
		return nil, err
	}
	n.log = n.cfg.Logger.With("node", n.ID())
	for name, done := range n.m.rotten {
		n.rotten.Add(1)
		n.log.Warn("file had rotted on the disk", "file", name, "done", done)
	}
	n.disk = newDisk(vfs.OS{}, n.cfg.Dir, n.cfg.DiskReserve, n.log)
	if err := n.listen(); err != nil {
		return nil, err
	}
	if err := n.wire(); err != nil {
		return nil, err
	}
	if n.View().Desired.Revoked[n.ID()] {
		return nil, ErrRemoved
	}
	n.disk.look()
	return n, nil
}

// wire makes the parts and connects them: arrows point from the part that asks to the part asked.
// Parts that need one another find it through n, since nothing runs before all are there.
func (n *Node) wire() error {
	files := vfs.Watch(vfs.OS{}, n.disk.note)
	store, err := bundle.OpenStore(files, n.cfg.Dir.path("bundles"))
	if err != nil {
		return err
	}
	if err := n.openUsage(); err != nil {
		return err
	}
	n.lines = newLines()
	n.runtime, err = runtime.New(runtime.Config{
		Dir: n.cfg.CodeDir, Admit: n.cfg.Admit, MemoryBudget: n.cfg.MemoryBudget, MaxResponse: n.cfg.MaxResponse,
		Lines: n.lines.keep, Logger: n.log, Metrics: runtime.NewMetrics(n.registry),
	})
	if err != nil {
		return err
	}
	newUsageMetrics(n.registry, n.usage)
	if err := n.wireEgress(); err != nil {
		return err
	}
	metrics := newMetrics(n.registry, n.m.identity.Expires, func() float64 { return n.webCerts.left(time.Now()) }, n.disk.state)
	control := http.NewServeMux()
	join := newJoinServer(n.m, metrics, n.log)
	if err := n.wireMesh(files, control, join); err != nil {
		return err
	}
	join.gossip, join.reach = n.gossip, newReacher(n)
	n.standing.gossip = n.gossip
	n.disk.told = func(full bool) { n.gossip.SetRow(func(r *perigee.Row) { r.Full = full }) }
	n.plans = &plans{}
	n.rollouts = &rollouts{plans: n.plans}
	if n.trials, err = openTrials(n.cfg.Dir.path("trials"), n.cfg.Trial, n.log); err != nil {
		return err
	}
	n.secrets = newSecrets(n)
	n.rep = newReplicator(n, store, metrics)
	n.deployer = newDeployer(n, store, metrics)
	n.renewer = &renewer{dir: n.cfg.Dir, m: n.m, join: join, gossip: n.gossip, seeds: n.seeds.addrs(), log: n.log}
	web := newWebSigner(n)
	control.Handle("/gossip/", n.gossip.Handler())
	control.Handle("/bundles", n.deployer.bundleHandler())
	control.Handle("/bundles/", n.deployer.bundleHandler())
	control.Handle("POST /placement", membersOnly(n.serveNodePlacement))
	control.HandleFunc("POST /secrets/{function}/{name}/{version}", n.secrets.serve)
	control.Handle("POST /reach", join.reach.handler())
	control.Handle("POST /web/sign", web.handler())
	if err := n.wireCerts(); err != nil {
		return err
	}
	n.certControl(control)
	control.Handle("GET /explain", membersOnly(n.serveNodeExplain))
	control.Handle("GET /usage", membersOnly(n.serveNodeUsage))
	control.Handle("GET /logs/{function}", membersOnly(n.serveNodeLogs))
	if err := n.wireGeography(); err != nil {
		return err
	}
	control.Handle("GET /distances", membersOnly(n.distances.serve))
	return n.wireFront(web)
}

// dialTimeout is for a handshake with another node. A request that meets a node which died a moment
// ago waits so long before it goes to the next: it is to be answered within two seconds.
const dialTimeout = 1500 * time.Millisecond

// wireMesh makes the link and gossip, which rest on each other.
func (n *Node) wireMesh(files vfs.FS, control http.Handler, join *joinServer) error {
	var err error
	if n.advertised, err = n.advertise(); err != nil {
		return err
	}
	// Derived from the key, it lets peers notice at once that a node which died is back.
	reset := [32]byte(digest.Sum(append([]byte("perigee stateless reset v1\x00"), n.m.identity.Key().Seed()...)))
	n.link, err = peerlink.New(peerlink.Config{
		Socket: n.cfg.Socket, TCP: n.meshTCP, Identity: n.m.identity, Allow: n.allow, Addr: n.addr,
		Hops:    http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.proxy.HopHandler().ServeHTTP(w, r) }),
		Control: n.unlessFrozen(control), Join: n.unlessFrozen(join.handler()), Admin: n.unlessFrozen(n.meshAdmin()), Mark: n.mark,
		DialTimeout: dialTimeout, StatelessResetKey: &reset, Logger: n.log, Metrics: peerlink.NewMetrics(n.registry),
	})
	if err != nil {
		return err
	}
	n.standing = &standing{m: n.m, addrs: n.knownAddrs, log: n.log, refused: make(chan struct{}, 1)}
	n.gossip, err = gossip.New(gossip.Config{
		Identity: n.m.identity, Genesis: n.m.genesisRecord, Dir: n.cfg.Dir.path("state"), FS: files, Mesh: mesh{n.link, n.standing.noteRefusal},
		GossipKey: n.m.gossipKey, Advertise: n.advertised, Seeds: n.seeds.addrPorts,
		Row:           perigee.Row{Version: perigee.Version, HTTPS: n.HTTPSAddr(), Memory: n.cfg.MemoryBudget},
		CheckManifest: func(m *perigee.Manifest) error { return bundle.CheckManifest(m, nil) },
		Read:          n.readRecords, Boot: bootID(),
		Peer: peerOf, Logger: n.log, Metrics: gossip.NewMetrics(n.registry),
	})
	if errors.Is(err, gossip.ErrForeign) {
		return fmt.Errorf("data directory %s: %w: its folder state/ does not belong with its certificate; restore both from one backup, or start with an empty directory", n.cfg.Dir, err)
	}
	return err
}

func (n *Node) wireFront(web *webSigner) error {
	webRoot, err := x509.ParseCertificate(n.m.genesis.WebRoot)
	if err != nil {
		return fmt.Errorf("the cluster's web CA: %w", err)
	}
	me := n.Claims()
	var spans edgeproxy.Spans
	if n.cfg.TraceEndpoint != "" {
		n.traces, err = otlp.New(otlp.Config{Endpoint: n.cfg.TraceEndpoint, Node: me.ID, Region: me.Region, Logger: n.log})
		if err != nil {
			return err
		}
		spans = n.traces
	}
	n.proxy, err = edgeproxy.New(edgeproxy.Config{
		Self: me.ID, Region: me.Region, View: n.View, Rollout: n.rollouts.of, Local: local{n}, WarmUp: local{n}.warmUp, Hops: hops{n.link}, LoadOf: peerlink.LoadOf, WithAccepted: peerlink.WithAccepted, Peer: peerOf,
		Client: n.locator.Client, Measured: n.distances.observe, NearerGateway: n.cfg.NearerGateway, Gateways: n.gateways, GatewayDomains: n.cfg.GatewayDomains,
		OnHTTPS: n.cfg.OnHTTPS, OnHTTP: n.cfg.OnHTTP, OnHTTP3: n.cfg.OnHTTP3, Mark: n.mark, SignWeb: web.sign, WebRoot: webRoot, CertDir: n.cfg.Dir.path("web"),
		Shared: n.webCerts.forHost, TicketKeys: n.tickets.forHost, Challenges: n.challenges,
		MaxConns: n.cfg.MaxConns, MaxConnsPerIP: n.cfg.MaxConnsPerIP, MinBodyRate: n.cfg.MinBodyRate, CacheSize: n.cfg.CacheSize, DisableCompression: n.cfg.NoCompression, Spans: spans, TraceSample: n.cfg.TraceSample,
		AccessLog: n.cfg.AccessLog, ProxyProtocol: n.cfg.ProxyProtocol, Trusted: n.cfg.Trusted,
		Receipt: n.cfg.Receipt, Steer: n.cfg.Steer, Logger: n.log, Metrics: edgeproxy.NewMetrics(n.registry),
	})
	return err
}

// wireCerts makes what shares web certificates.
func (n *Node) wireCerts() (err error) {
	n.webCerts = newWebCerts(n)
	n.webCerts.update(n.View().Desired.Web)
	n.tickets = newTickets(n)
	n.tickets.update(n.View().Desired)
	var client *acme.Client
	if n.cfg.ACME.Directory != "" {
		n.cfg.ACME.Logger, n.cfg.ACME.Agent = n.log, "perigee/"+perigee.Version
		if client, err = acme.New(n.cfg.ACME); err != nil {
			return err
		}
	}
	n.issuer = newIssuer(n, client)
	return nil
}

func peerOf(r *http.Request) (perigee.NodeClaims, bool) { return peerlink.PeerFrom(r.Context()) }

// allow refuses connections with nodes that were removed.
func (n *Node) allow(c perigee.NodeClaims) error {
	if n.View().Desired.Revoked[c.ID] {
		return fmt.Errorf("node %s was removed from the cluster", c.ID)
	}
	return nil
}

// readRecords reads functions as this node will, before anybody else hears of their records: one that breaks the
// planner or the router must break one node at most.
func (n *Node) readRecords(d *perigee.Desired, functions []string) {
	o := &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{n.ID(): {NodeClaims: n.Claims(), State: perigee.NodeAlive}}}
	v := &perigee.View{Desired: d, Observed: o}
	planner, rollouts := placement.NewPlanner(v), placement.NewRollouts(v)
	for _, name := range functions {
		fn := d.Functions[name]
		if fn == nil {
			continue
		}
		rollouts.Of(fn, planner.Plan(fn), "")
		for _, r := range fn.Routes(d.Domain) {
			d.Lookup(r.Host, r.Path)
		}
	}
}

// bootID tells one start of the machine from another; "" where it can't be told.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

func (n *Node) addr(id perigee.NodeID) (netip.AddrPort, bool) {
	p := n.View().Observed.Nodes[id]
	if p == nil {
		return netip.AddrPort{}, false
	}
	return p.Addr, true
}

// View returns what this node believes now.
func (n *Node) View() *perigee.View { return n.gossip.View() }

// ID returns the node's name.
func (n *Node) ID() perigee.NodeID { return n.m.identity.Claims().ID }

// Claims returns what the node's certificate says.
func (n *Node) Claims() perigee.NodeClaims { return n.m.identity.Claims() }

// Handler returns the node's gateway: what its HTTPS listener serves.
func (n *Node) Handler() http.Handler { return n.proxy }

// Client returns a client of this node's admin socket. It works while the node runs.
func (n *Node) Client() *Client { return NewSocketClient(n.cfg.AdminSocket) }

// Genesis returns the cluster's first record, decoded and as it is signed.
func (n *Node) Genesis() (*record.Genesis, []byte) { return n.m.genesis, n.m.genesisRecord }

// HTTPSAddr returns where the node serves HTTPS; "" = nowhere.
func (n *Node) HTTPSAddr() string {
	if n.cfg.OnHTTPS == nil {
		return ""
	}
	return n.cfg.OnHTTPS.Addr().String()
}

// HTTPAddr returns where the node serves HTTP without TLS; "" = nowhere.
func (n *Node) HTTPAddr() string {
	if n.cfg.OnHTTP == nil {
		return ""
	}
	return n.cfg.OnHTTP.Addr().String()
}

// Close lets go of what New opened. It is for nodes that are not run: Run does it at its end. It may
// be called more than once.
func (n *Node) Close() {
	n.closed.Do(func() {
		if n.rep != nil {
			n.rep.stop()
		}
		if n.trials != nil {
			n.trials.rest()
		}
		if n.runtime != nil {
			n.closeRuntime()
		}
		if n.rep != nil {
			for _, h := range *n.rep.here.Load() {
				h.out.close()
			}
		}
		if n.usage != nil {
			if err := n.usage.Close(); err != nil {
				n.log.Warn("close the usage file", "err", err)
			}
		}
		for _, l := range []net.Listener{n.admin, n.health, n.meshTCP, n.cfg.OnHTTPS, n.cfg.OnHTTP} {
			if l != nil {
				l.Close()
			}
		}
		for _, c := range []net.PacketConn{n.cfg.Socket, n.cfg.OnHTTP3} {
			if c != nil {
				c.Close()
			}
		}
		if n.dns != nil {
			n.dns.Close()
		}
		if n.unlock != nil {
			n.unlock()
		}
	})
}

// closeTime is for guests that still run when everything else has stopped.
const closeTime = 5 * time.Second

func (n *Node) closeRuntime() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := n.runtime.Close(ctx); err != nil {
		n.log.Warn("close the runtime", "err", err)
	}
}
