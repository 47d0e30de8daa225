package node

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee/usage"
)

const (
	tunnelBill   = 10 * time.Second // how often an open WebSocket is counted
	tunnelLinger = 2 * time.Second  // for the origin's last words after the client's end
)

// tunnel copies what client and origin say to one another after their connection became a WebSocket, until
// one of them ends it or ctx does. The guest has ended: bytes and time are counted for the function, and
// nothing else. It returns at once if there is no such connection.
func (m *metered) tunnel(ctx context.Context, client io.Reader) error {
	if m.upgrade == nil || m.status != http.StatusSwitchingProtocols {
		return nil
	}
	conn := m.upgrade.Take()
	if conn == nil {
		return nil
	}
	closing := sync.OnceFunc(func() { _ = conn.Close() }) // what it had to say was read or is not wanted
	defer closing()
	defer context.AfterFunc(ctx, closing)()

	var t tally
	var billing sync.WaitGroup
	done := make(chan struct{})
	billing.Go(func() { t.bill(&m.bill, done) })
	defer billing.Wait()
	defer close(done)
	var left atomic.Bool
	go func() { // ends with the client's stream, which the caller ends
		_, _ = io.Copy(counting{conn, &t.in}, client) // the reader below sees what became of the origin
		left.Store(true)
		time.AfterFunc(tunnelLinger, closing)
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			t.out.Add(int64(n))
			if _, err := m.ResponseWriter.Write(buf[:n]); err != nil {
				return context.Canceled // the client takes no more
			}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == io.EOF, left.Load():
			return nil
		default:
			return err
		}
	}
}

// close ends the connection to an origin that the response was not about: the guest answered otherwise.
func (m *metered) close() {
	if m.upgrade == nil {
		return
	}
	if conn := m.upgrade.Take(); conn != nil {
		_ = conn.Close()
	}
}

// tally is what went through a tunnel.
type tally struct{ in, out atomic.Int64 }

// bill counts what has gone through, now and then and at the end.
func (t *tally) bill(b *bill, done <-chan struct{}) {
	tick := time.NewTicker(tunnelBill)
	defer tick.Stop()
	last, in, out := time.Now(), int64(0), int64(0)
	for open := true; open; {
		select {
		case <-tick.C:
		case <-done:
			open = false
		}
		now, i, o := time.Now(), t.in.Load(), t.out.Load()
		b.table.Add(b.key, &usage.Counts{Wall: uint64(now.Sub(last)), BytesIn: uint64(i - in), BytesOut: uint64(o - out)}, now)
		last, in, out = now, i, o
	}
}

// counting counts what is written.
type counting struct {
	io.Writer
	bytes *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.bytes.Add(int64(len(p))) // before: the end that it may cause is counted then
	return c.Writer.Write(p)
}
