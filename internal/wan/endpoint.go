package wan

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	maxPackets = 16384 // waiting in one socket: more than quic-go's largest window
	maxBytes   = 32 << 20
	minDelay   = 500 * time.Microsecond
)

// endpoint is a wrapped socket. It embeds the interface and not the socket, so that the methods
// by which quic-go would write past WriteTo are out of sight.
type endpoint struct {
	net.PacketConn
	net    *Network
	region perigee.Region
	addrs  []address

	mu     sync.Mutex // guards the fields below, and that the heap's order is that of the WriteTo calls
	queue  packets
	bytes  int // in queue
	seq    uint64
	last   map[address]moment // the latest packet to an address that is not written yet
	chance *rand.Rand
	closed bool

	wake chan struct{} // one pending signal: the head of queue changed, or closed; never closed
	done chan struct{} // closed by run when it ends
}

// moment is when a packet leaves; the order of WriteTo calls decides between equal times.
type moment struct {
	due time.Time
	seq uint64
}

// packet waits for its moment.
type packet struct {
	moment
	to     net.Addr
	key    address
	region perigee.Region // of the receiver
	data   *[]byte        // from Network.buffers
}

func newEndpoint(c net.PacketConn, n *Network, region perigee.Region, number uint64) *endpoint {
	return &endpoint{
		PacketConn: c, net: n, region: region, addrs: homesOf(c.LocalAddr()),
		last: map[address]moment{}, chance: rand.New(rand.NewPCG(number, 0)),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// WriteTo sends b after the delay of the way to addr. It reports success for packets that the
// network then loses.
func (e *endpoint) WriteTo(b []byte, addr net.Addr) (int, error) {
	if addr == nil {
		return e.PacketConn.WriteTo(b, addr) // whose error says it best
	}
	key := addressOf(addr)
	way := e.net.path(e.region, key)
	var delay time.Duration
	if way.known {
		delay = e.net.rtt(e.region, way.to) / 2
	}
	now, err := e.admit(b, addr, key, way, delay)
	if now {
		return e.PacketConn.WriteTo(b, addr)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// admit decides about a packet: 1. now is true: the caller sends it; 2. the error is set: the
// socket is closed; 3. neither: it waits in the queue or is lost.
func (e *endpoint) admit(b []byte, addr net.Addr, key address, way path, delay time.Duration) (now bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return false, &net.OpError{Op: "write", Net: addr.Network(), Source: e.LocalAddr(), Addr: addr, Err: net.ErrClosed}
	case !way.open:
		return false, nil
	case way.loss > 0 && e.chance.Float64() < way.loss:
		return false, nil
	}
	last, waiting := e.last[key]
	if delay < minDelay && !waiting {
		return true, nil
	}
	if len(e.queue) >= maxPackets || e.bytes+len(b) > maxBytes {
		return false, nil
	}
	due := time.Now().Add(delay)
	if due.Before(last.due) {
		due = last.due // the distance shrank: do not overtake
	}
	e.push(packet{moment: moment{due: due}, to: addr, key: key, region: way.to, data: e.net.copyOf(b)})
	return false, nil
}

// push adds a packet and wakes run if it is the first one due. The caller holds mu.
func (e *endpoint) push(p packet) {
	e.seq++
	p.seq = e.seq
	e.last[p.key] = p.moment
	e.bytes += len(*p.data)
	heap.Push(&e.queue, p)
	if e.queue[0].seq == p.seq {
		e.signal()
	}
}

func (e *endpoint) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run sends packets when they are due, until the socket is closed.
func (e *endpoint) run() {
	defer close(e.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p, wait, closed := e.next(time.Now())
		switch {
		case p.data != nil:
			e.deliver(p)
			continue
		case closed:
			return
		case wait > 0:
			timer.Reset(wait)
		default:
			timer.Stop()
		}
		select {
		case <-e.wake:
		case <-timer.C:
		}
	}
}

// next takes the first packet if it is due at now, or if the socket is closed. Otherwise its data
// is nil, and wait says how long until one is due, 0 if none waits.
func (e *endpoint) next(now time.Time) (p packet, wait time.Duration, closed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return packet{}, 0, e.closed
	}
	if wait := e.queue[0].due.Sub(now); wait > 0 && !e.closed {
		return packet{}, wait, false
	}
	p = heap.Pop(&e.queue).(packet)
	e.bytes -= len(*p.data)
	return p, 0, e.closed
}

// deliver writes a packet to the socket. Errors are lost, as those of a real network are.
func (e *endpoint) deliver(p packet) {
	if e.net.isOpen(e.region, p.region) {
		_, _ = e.PacketConn.WriteTo(*p.data, p.to)
	}
	e.net.buffers.Put(p.data)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last[p.key].seq == p.seq {
		delete(e.last, p.key)
	}
}

// Close sends what waits, closes the socket and ends the goroutine.
func (e *endpoint) Close() error {
	e.mu.Lock()
	first := !e.closed
	e.closed = true
	e.mu.Unlock()
	if first {
		e.net.forget(e)
		e.signal()
	}
	<-e.done
	return e.PacketConn.Close()
}

// SetReadBuffer sets the socket's receive buffer, if it has such a setting.
func (e *endpoint) SetReadBuffer(bytes int) error {
	c, ok := e.PacketConn.(interface{ SetReadBuffer(int) error })
	if !ok {
		return errors.ErrUnsupported
	}
	return c.SetReadBuffer(bytes)
}

// SetWriteBuffer sets the socket's send buffer, if it has such a setting.
func (e *endpoint) SetWriteBuffer(bytes int) error {
	c, ok := e.PacketConn.(interface{ SetWriteBuffer(int) error })
	if !ok {
		return errors.ErrUnsupported
	}
	return c.SetWriteBuffer(bytes)
}

// copyOf copies b into a buffer of the pool.
func (n *Network) copyOf(b []byte) *[]byte {
	buf := n.buffers.Get().(*[]byte)
	*buf = append((*buf)[:0], b...)
	return buf
}
