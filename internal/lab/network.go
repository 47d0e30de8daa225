//go:build linux

package lab

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// network is the switch: it takes packets from nodes and hands them to others when they are due.
type network struct {
	rtt     func(from, to perigee.Region) time.Duration
	alarm   *alarm
	buffers sync.Pool // of *[]byte
	running sync.WaitGroup

	mu     sync.Mutex // guards the fields below, and what links, boxes and lines say it guards
	ports  map[netip.Addr]*port
	links  map[way]*link
	chance *rand.Rand
	queue  waiting
	seq    uint64
}

type way struct{ from, to *port }

// port is where a node is plugged in. Its fields do not change, except those that the switch's lock guards.
type port struct {
	region perigee.Region
	tun    *tun

	private, public netip.Addr // guarded; equal without NAT
	box             *box       // guarded; nil without NAT
	up, down        line       // guarded
	traffic         Traffic    // guarded
	noUDP           bool       // guarded
}

// Traffic counts the IP packets that a node has sent and received, headers included.
type Traffic struct {
	SentPackets, ReceivedPackets int64
	SentBytes, ReceivedBytes     int64
	Dropped                      int64 // of those sent: lost, cut off, refused by a box, or too many for a line
}

func newNetwork(rtt func(from, to perigee.Region) time.Duration, seed uint64) (*network, error) {
	a, err := newAlarm()
	if err != nil {
		return nil, err
	}
	n := &network{
		rtt: rtt, alarm: a, buffers: sync.Pool{New: func() any { b := make([]byte, mtu); return &b }},
		ports: map[netip.Addr]*port{}, links: map[way]*link{}, chance: rand.New(rand.NewPCG(seed, 0)),
	}
	n.running.Go(n.deliver)
	return n, nil
}

// plug connects a port, whose packets are read from then on.
func (n *network) plug(p *port) {
	n.mu.Lock()
	n.ports[p.public] = p
	n.mu.Unlock()
	n.running.Go(func() {
		for {
			data := n.buffers.Get().(*[]byte)
			*data = (*data)[:mtu]
			read, err := p.tun.file.Read(*data)
			if err != nil {
				return // closed
			}
			*data = (*data)[:read]
			if !n.send(p, data, time.Now()) {
				n.buffers.Put(data)
			}
		}
	})
}

// send puts a packet on its way; false means that it has none.
func (n *network) send(from *port, data *[]byte, now time.Time) bool {
	p := packet(*data)
	if !p.valid() {
		return false // IPv6's attempts to find routers
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	from.traffic.SentPackets++
	from.traffic.SentBytes += int64(len(p))
	t, ok := n.route(from, p, now)
	if !ok {
		from.traffic.Dropped++
		return false
	}
	t.data = data
	n.push(t)
	return true
}

// route decides about a packet: where it goes, and when it arrives there. The caller holds mu.
func (n *network) route(from *port, p packet, now time.Time) (transit, bool) {
	if p.source() != from.private || from.box != nil && !from.box.out(p, now) {
		return transit{}, false
	}
	to := n.ports[p.destined()]
	if to == nil || to == from || p.proto() == protoUDP && (from.noUDP || to.noUDP) {
		return transit{}, false
	}
	l := n.linkLocked(from, to)
	if !l.open(now) || l.Loss > 0 && n.chance.Float64() < l.Loss {
		return transit{}, false
	}
	at, ok := from.up.pass(now, len(p))
	if ok {
		at, ok = l.line.pass(at, len(p))
	}
	if !ok {
		return transit{}, false
	}
	at = at.Add(l.delay)
	if l.Jitter > 0 {
		at = at.Add(time.Duration(n.chance.Int64N(int64(l.Jitter) + 1)))
	}
	if at.Before(l.last) {
		at = l.last // do not overtake
	}
	l.last = at
	return transit{due: at, way: l, to: to}, true
}

func (n *network) linkLocked(from, to *port) *link {
	l := n.links[way{from, to}]
	if l == nil {
		l = &link{}
		n.links[way{from, to}] = l
		n.configureLocked(from, to, LinkConfig{})
	}
	return l
}

func (n *network) configureLocked(from, to *port, c LinkConfig) {
	l := n.linkLocked(from, to)
	l.LinkConfig = c
	l.delay = n.rtt(from.region, to.region) / 2
	if c.RTT > 0 {
		l.delay = c.RTT / 2
	}
	l.line = line{rate: c.Bandwidth, queue: from.up.queue}
}

// push lets a packet wait. The caller holds mu.
func (n *network) push(t transit) {
	n.seq++
	t.seq = n.seq
	heap.Push(&n.queue, t)
	if n.queue[0].seq == t.seq {
		n.alarm.set(time.Until(t.due))
	}
}

// deliver hands packets over when they are due, until the alarm is closed.
func (n *network) deliver() {
	var batch []transit
	for n.alarm.wait() {
		batch = n.due(time.Now(), batch[:0])
		for _, t := range batch {
			t.to.tun.write(*t.data)
			n.buffers.Put(t.data)
		}
	}
}

// due takes the packets that a node is to have at now and sets the alarm for the next ones.
func (n *network) due(now time.Time, batch []transit) []transit {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.queue) > 0 && !n.queue[0].due.After(now) {
		t := heap.Pop(&n.queue).(transit)
		if n.arrive(&t, now) {
			batch = append(batch, t)
		}
	}
	if len(n.queue) > 0 {
		n.alarm.set(time.Until(n.queue[0].due))
	}
	return batch
}

// arrive reports whether the receiver gets a packet now. Otherwise it waits for the receiver's line, or is
// lost: what is under way when a link is cut does not arrive. The caller holds mu.
func (n *network) arrive(t *transit, now time.Time) bool {
	p := packet(*t.data)
	if !t.arrived {
		at, ok := t.to.down.pass(t.due, len(p))
		if !ok || !t.way.open(now) {
			n.buffers.Put(t.data)
			return false
		}
		t.arrived = true
		if at.After(now) {
			t.due = at
			n.push(*t)
			return false
		}
	}
	if t.to.box != nil && !t.to.box.in(p, now) {
		n.buffers.Put(t.data)
		return false
	}
	t.to.traffic.ReceivedPackets++
	t.to.traffic.ReceivedBytes += int64(len(p))
	return true
}

// readdress gives a port another address, at once.
func (n *network) readdress(p *port, addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ports, p.public)
	p.private, p.public = addr, addr
	n.ports[addr] = p
}

// eachWay calls f with the links from every port of one group to every port of the other.
func (n *network) eachWay(from, to []*Node, f func(*link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range from {
		for _, b := range to {
			if a != b {
				f(n.linkLocked(a.port, b.port))
			}
		}
	}
}

func (n *network) close() {
	n.alarm.close()
	n.mu.Lock()
	for _, p := range n.ports {
		p.tun.file.Close()
	}
	n.mu.Unlock()
	n.running.Wait()
}
