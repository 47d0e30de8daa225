package peerlink

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/perigee-edge/perigee"
)

// rawGossip is the one kind of raw stream: a stream of the membership protocol.
const rawGossip = 1

// rawArrival is a raw stream that waits for AcceptRaw.
type rawArrival struct {
	conn net.Conn
	peer perigee.NodeClaims
}

// DialRaw opens a stream of bytes to whichever node of the cluster has the address. ctx bounds the
// opening only.
func (l *Link) DialRaw(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var raw *rawConn
	err := l.onControl(ctx, controlKey(addr), func(c *conn) error {
		st, err := c.openStream(ctx, false)
		if err != nil {
			return err
		}
		b, at := beginFrame(nil, frameRaw)
		b = quicvarint.Append(b, rawGossip)
		endFrame(b, at)
		l.watchSilence(c)
		raw = &rawConn{st: st, conn: c}
		if _, err := raw.st.Write(b); err != nil {
			_ = raw.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", addr, err)
	}
	return raw, nil
}

// watchSilence takes a connection out of use for what is new if the peer acknowledges nothing of it for as long
// as a worker may be silent. The membership protocol opens a stream where packets got no answer: the next one
// is to find another way.
func (l *Link) watchSilence(c *conn) {
	seen := c.packets()
	time.AfterFunc(max(l.cfg.AcceptFloor, 3*c.rtt()), func() {
		if c.packets() == seen {
			c.retire()
		}
	})
}

// AcceptRaw returns the next stream that a node opened with DialRaw, and which node that is.
func (l *Link) AcceptRaw(ctx context.Context) (net.Conn, perigee.NodeClaims, error) {
	select {
	case a := <-l.raws:
		return a.conn, a.peer, nil
	case <-ctx.Done():
		return nil, perigee.NodeClaims{}, context.Cause(ctx)
	case <-l.life.Done():
		return nil, perigee.NodeClaims{}, ErrClosed
	}
}

// serveRaw queues a raw stream for AcceptRaw, or refuses it when the queue is full.
func (l *Link) serveRaw(in *inbound, st *quic.Stream, fr frameReader, payload string) {
	c := cursor{s: payload}
	if kind := c.uint(); c.err != nil || kind != rawGossip {
		resetStream(st, ResetProtocol)
		fr.release()
		return
	}
	_ = st.SetReadDeadline(time.Time{}) // never fails
	in.useStream()                      // until the raw connection is closed; the caller counts only its own time
	raw := &rawConn{st: st, conn: in.conn, fr: fr}
	select {
	case l.raws <- rawArrival{raw, in.claims}:
		l.met.raws.Inc()
	default:
		resetStream(st, ResetOverloaded)
		raw.end.Do(in.closeStream)
	}
}

// rawConn is a raw stream as a net.Conn.
type rawConn struct {
	st   *quic.Stream
	conn *conn
	end  sync.Once

	readMu sync.Mutex  // guards fr
	fr     frameReader // what came with the first frame; its buffer is nil once read

	writeMu sync.Mutex // held during a Write, which Close must not overlap
}

// Read implements net.Conn.
func (r *rawConn) Read(p []byte) (int, error) {
	r.readMu.Lock()
	defer r.readMu.Unlock()
	if br := r.fr.br; br != nil {
		if br.Buffered() > 0 {
			return br.Read(p)
		}
		r.fr.release()
	}
	n, err := r.st.Read(p)
	return n, streamErr(err)
}

// Write implements net.Conn.
func (r *rawConn) Write(p []byte) (int, error) {
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	n, err := r.st.Write(p)
	return n, streamErr(err)
}

// Close implements net.Conn. What was written still reaches the peer, unless a Write is under way.
func (r *rawConn) Close() error {
	r.end.Do(func() {
		if r.writeMu.TryLock() {
			_ = r.st.Close() // fails only if the peer reset the stream
			r.writeMu.Unlock()
		} else {
			r.st.CancelWrite(quic.StreamErrorCode(ResetCanceled))
		}
		r.st.CancelRead(quic.StreamErrorCode(ResetNone))
		r.conn.closeStream()
	})
	return nil
}

// LocalAddr implements net.Conn.
func (r *rawConn) LocalAddr() net.Addr { return r.conn.q.LocalAddr() }

// RemoteAddr implements net.Conn.
func (r *rawConn) RemoteAddr() net.Addr { return r.conn.q.RemoteAddr() }

// SetDeadline implements net.Conn.
func (r *rawConn) SetDeadline(t time.Time) error { return r.st.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (r *rawConn) SetReadDeadline(t time.Time) error { return r.st.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (r *rawConn) SetWriteDeadline(t time.Time) error { return r.st.SetWriteDeadline(t) }
