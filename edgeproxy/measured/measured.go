// Package measured remembers how far clients are, by their networks: round trips as TCP and QUIC measure
// them anyway. A network is an IPv4 /24 or an IPv6 /48, as in DNS (RFC 7871). The table is bounded and
// forgets by the 2Q rule (Johnson and Shasha, VLDB 1994): a flood of networks that come once pushes out others
// like them, not those that come often. It sends nothing and starts nothing.
package measured

import (
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	maxNetworks = 4096
	least       = 3                // measurements before a figure counts
	lasts       = 6 * time.Hour    // without a new one
	weight      = 0.25             // of a new measurement
	longest     = 10 * time.Second // anything above was measured during some outage
)

// Table is the round trips to clients' networks from one node. It is safe for concurrent use.
type Table struct {
	mu   sync.Mutex // guards nets
	nets *lru.TwoQueueCache[netip.Prefix, entry]
}

type entry struct {
	rtt   time.Duration
	count int
	last  time.Time
}

// New makes an empty table.
func New() *Table {
	nets, err := lru.New2Q[netip.Prefix, entry](maxNetworks)
	if err != nil { // of the size only
		panic(err)
	}
	return &Table{nets: nets}
}

// Network returns the network that a client counts as part of; false for an address that says nothing of a
// client's place.
func Network(a netip.Addr) (netip.Prefix, bool) {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return netip.Prefix{}, false
	}
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	return p, err == nil
}

// Observe takes a measurement of one connection.
func (t *Table) Observe(client netip.Addr, rtt time.Duration, now time.Time) {
	n, ok := Network(client)
	if !ok || rtt <= 0 || rtt > longest {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, known := t.nets.Get(n)
	if known && now.Sub(e.last) <= lasts {
		e.rtt += time.Duration(weight * float64(rtt-e.rtt))
	} else {
		e = entry{rtt: rtt}
	}
	e.count, e.last = e.count+1, now
	t.nets.Add(n, e)
}

// Figures returns what is known well enough, in microseconds by network.
func (t *Table) Figures(now time.Time) map[netip.Prefix]uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[netip.Prefix]uint32{}
	for _, p := range t.nets.Keys() {
		if e, _ := t.nets.Peek(p); e.count >= least && now.Sub(e.last) <= lasts {
			out[p] = uint32(max(1, e.rtt.Microseconds()))
		}
	}
	return out
}
