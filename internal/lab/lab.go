//go:build linux

package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wan"
)

// Config says what a lab has. Zero values mean the defaults named.
type Config struct {
	Binary    string        // program that nodes run, found before anything starts; required
	Dir       string        // nodes' directories go below it; default a new temporary one, which Close removes
	Bandwidth int64         // bit/s of each node's line, each way; 0 = unlimited
	Queue     time.Duration // longest wait for a line, 0 = 100 ms
	Seed      uint64        // of loss and jitter; 0 = random
	Env       []string      // added to the environment of what runs, "KEY=VALUE"
}

// Lab is a running network with its nodes. Its methods are safe for concurrent use.
type Lab struct {
	cfg  Config
	temp bool // the directory is ours
	net  *network

	mu    sync.Mutex // guards nodes and next
	nodes []*Node
	next  uint32
}

// Addresses are of the range for benchmarks of networks (RFC 2544), and private ones of nodes behind NAT.
var (
	publicNet  = netip.AddrFrom4([4]byte{198, 18, 0, 0})
	privateNet = netip.AddrFrom4([4]byte{10, 18, 0, 0})
)

// Supported says why this machine can't run a lab; nil means that it can.
func Supported() error {
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("the lab needs the ip command (package iproute2): %w", err)
	}
	ns, err := newNamespace(true)
	if err != nil {
		return fmt.Errorf("the lab needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN: %w", err)
	}
	defer ns.close()
	return ns.do(func() error {
		t, err := openTUN()
		if err != nil {
			return fmt.Errorf("the lab needs /dev/net/tun and CAP_NET_ADMIN: %w", err)
		}
		return t.file.Close()
	})
}

// New starts a lab without nodes. Close ends it.
func New(cfg Config) (*Lab, error) {
	binary, err := filepath.Abs(cfg.Binary)
	if err == nil {
		binary, err = exec.LookPath(binary)
	}
	if err != nil {
		return nil, fmt.Errorf("lab: the program to run: %w", err)
	}
	cfg.Binary = binary
	if cfg.Queue == 0 {
		cfg.Queue = 100 * time.Millisecond
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	l := &Lab{cfg: cfg}
	if cfg.Dir == "" {
		if l.cfg.Dir, err = os.MkdirTemp("", "plab-"); err != nil {
			return nil, err
		}
		l.temp = true
	}
	if l.net, err = newNetwork(wan.Published().Between(perigee.BuiltinRegions()), cfg.Seed); err != nil {
		return nil, errors.Join(err, l.removeDir())
	}
	return l, nil
}

// NodeConfig says what is special about a node.
type NodeConfig struct {
	NAT   NAT
	Disk  perigee.Bytes // size of a file system of its own for its directory; 0 = the machine's
	NoUDP bool          // as if DropUDP(true) came before anything ran
}

// Node makes a node in a region: a namespace and a directory in which nothing runs yet. Its name is for
// people; the region may be any of the built-in catalogue.
func (l *Lab) Node(name string, region perigee.Region) (*Node, error) {
	return l.NodeWith(name, region, NodeConfig{})
}

// NodeWith is Node, with something special about it.
func (l *Lab) NodeWith(name string, region perigee.Region, c NodeConfig) (*Node, error) {
	n := &Node{Name: name, Region: region, Dir: filepath.Join(l.cfg.Dir, name), lab: l}
	if err := n.build(c); err != nil {
		return nil, fmt.Errorf("lab: node %s: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = append(l.nodes, n)
	return n, nil
}

// addresses returns the next free pair of a private and a public address.
func (l *Lab) addresses() (private, public netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	plus := func(a netip.Addr) netip.Addr {
		b := a.As4()
		b[2], b[3] = b[2]+byte(l.next/250), b[3]+byte(l.next%250)+1
		return netip.AddrFrom4(b)
	}
	return plus(privateNet), plus(publicNet)
}

// Nodes returns the nodes in the order in which they were made.
func (l *Lab) Nodes() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Node(nil), l.nodes...)
}

// RTT returns the round-trip time that the lab gives two nodes, without what their lines add.
func (l *Lab) RTT(a, b *Node) time.Duration {
	var rtt time.Duration
	l.net.eachWay([]*Node{a}, []*Node{b}, func(k *link) { rtt += k.delay })
	l.net.eachWay([]*Node{b}, []*Node{a}, func(k *link) { rtt += k.delay })
	return rtt
}

// Link changes both ways between two nodes.
func (l *Lab) Link(a, b *Node, c LinkConfig) {
	l.OneWay(a, b, c)
	l.OneWay(b, a, c)
}

// OneWay changes the way from one node to another.
func (l *Lab) OneWay(from, to *Node, c LinkConfig) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.net.configureLocked(from.port, to.port, c)
}

// Partition stops all packets between two groups, those under way too, until Heal.
func (l *Lab) Partition(a, b []*Node) {
	l.Cut(a, b)
	l.Cut(b, a)
}

// Cut stops the packets from one group to another, and not those that come back.
func (l *Lab) Cut(from, to []*Node) {
	l.net.eachWay(from, to, func(k *link) { k.blocked = true })
}

// Flap cuts two groups from each other for a time, connects them for as long, and so on until Heal.
func (l *Lab) Flap(a, b []*Node, period time.Duration) {
	now := time.Now()
	flap := func(k *link) { k.flap, k.since = period, now }
	l.net.eachWay(a, b, flap)
	l.net.eachWay(b, a, flap)
}

// Heal undoes Partition, Cut and Flap, all of them.
func (l *Lab) Heal() {
	nodes := l.Nodes()
	l.net.eachWay(nodes, nodes, func(k *link) { k.blocked, k.flap = false, 0 })
}

// Close kills what runs and removes the network. It may be called once.
func (l *Lab) Close() error {
	for _, n := range l.Nodes() {
		n.Kill()
		n.endStrays()
	}
	l.net.close()
	for _, n := range l.Nodes() {
		n.ns.close()
	}
	return l.removeDir()
}

func (l *Lab) removeDir() error {
	if !l.temp {
		return nil
	}
	return os.RemoveAll(l.cfg.Dir)
}
