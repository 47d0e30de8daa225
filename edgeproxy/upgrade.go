package edgeproxy

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// webSocket is the one protocol that a client may go on in.
const webSocket = "websocket"

// headerProtocol is where net/http has the protocol of an extended CONNECT over HTTP/2.
const headerProtocol = ":protocol"

// upgrade is a client's request to go on in WebSocket: by Upgrade over HTTP/1 (RFC 6455), by extended CONNECT
// over HTTP/2 and 3 (RFC 8441, 9220). From here to the origin all three are one: a GET with the field Upgrade,
// whose answer is 101, and then bytes both ways.
type upgrade struct {
	key    string // of the client's handshake; "" = extended CONNECT, which has none
	src    io.Reader
	toll   *toll         // of the connection; nil = none is taken
	conn   net.Conn      // HTTP/1, when it is open
	opened chan struct{} // closed when src may be read
	over   chan struct{} // closed at the end
	tunnel tunnel
	limit  time.Duration // longest silence of both sides
	until  time.Time     // when the head of the response must have come
	idle   *time.Timer   // nil until it is open

	lift     func() bool                 // takes the function's time limit away
	view     atomic.Pointer[upgradeView] // of the last try
	received atomic.Int64
	began    time.Time // when it was open
}

// headWait is how long the answer to a handshake may take if the function has no limit of its own.
const headWait = time.Minute

// upgradeOf reads a client's wish to change the protocol. It returns the request in the one form, and nil if
// there is no such wish, or none that can be fulfilled: servers may ignore it.
func upgradeOf(w http.ResponseWriter, r *http.Request) (*http.Request, *upgrade) {
	if r.Method != http.MethodConnect && (r.Method != http.MethodGet || r.ProtoMajor != 1 || len(r.Header["Upgrade"]) == 0) {
		return r, nil
	}
	u := &upgrade{opened: make(chan struct{}), over: make(chan struct{})}
	protocol := r.Header.Get("Upgrade")
	switch {
	case r.Method == http.MethodConnect && r.ProtoMajor == 2 && len(r.Header[headerProtocol]) == 1:
		protocol = r.Header[headerProtocol][0]
	case r.Method == http.MethodConnect && r.ProtoMajor == 3:
		protocol = r.Proto // quic-go has it there
	case r.ProtoMajor == 1 && r.ProtoMinor > 0 && hasElement(r.Header["Connection"], "upgrade") && r.ContentLength == 0:
		_, ok := w.(http.Hijacker)
		u.key = r.Header.Get("Sec-Websocket-Key")
		if raw, err := base64.StdEncoding.DecodeString(u.key); !ok || err != nil || len(raw) != 16 {
			return r, nil
		}
	default:
		return r, nil
	}
	if !strings.EqualFold(protocol, webSocket) {
		return r, nil
	}
	c := *r
	c.Method, c.Header = http.MethodGet, maps.Clone(r.Header)
	delete(c.Header, headerProtocol)
	if r.ProtoMajor == 3 {
		c.Proto = "HTTP/3.0"
	}
	u.src, c.Body, c.ContentLength = r.Body, http.NoBody, 0
	return &c, u
}

// dress makes a request to go on one that asks for the protocol.
func (u *upgrade) dress(out *http.Request) {
	for _, name := range []string{"Sec-Websocket-Key", "Content-Length"} {
		delete(out.Header, name) // each connection has its own
	}
	out.Header["Upgrade"] = []string{webSocket}
	out.ContentLength = -1
}

// open tells the client that the protocol changes, with the header fields of w, and returns where to write
// from then on.
func (u *upgrade) open(w http.ResponseWriter) (http.ResponseWriter, error) {
	u.began = time.Now()
	h := w.Header()
	for _, name := range []string{"Sec-Websocket-Accept", "Content-Length", "Content-Type", "Trailer"} {
		delete(h, name)
	}
	if u.key == "" {
		w.WriteHeader(http.StatusOK)
		close(u.opened)
		return w, nil
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return w, fmt.Errorf("take over the connection: %w", err)
	}
	u.conn, u.src = conn, buffered.Reader
	_ = conn.SetDeadline(time.Time{}) // fails on closed connections, where Write will
	var head bytes.Buffer
	sum := sha1.Sum([]byte(u.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 1.3
	fmt.Fprintf(&head, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nDate: %s\r\n",
		base64.StdEncoding.EncodeToString(sum[:]), time.Now().UTC().Format(http.TimeFormat))
	if err := h.Write(&head); err != nil {
		return w, err
	}
	head.WriteString("\r\n")
	_, err = conn.Write(head.Bytes())
	close(u.opened)
	return &hijacked{conn, h}, err
}

// hijacked writes to a connection that net/http has given away.
type hijacked struct {
	net.Conn
	header http.Header
}

// Header returns the fields that were sent.
func (h *hijacked) Header() http.Header { return h.header }

// WriteHeader does nothing: the head was written.
func (h *hijacked) WriteHeader(int) {}

// took returns how long the handshake took.
func (u *upgrade) took(since time.Time) time.Duration { return u.began.Sub(since) }

// moved notes that bytes came or went.
func (u *upgrade) moved() { u.idle.Reset(u.limit) }

// close ends the connection of a tunnel (HTTP/1; streams end with their handler).
func (u *upgrade) close() {
	close(u.over)
	if u.idle != nil {
		u.idle.Stop()
	}
	if u.conn != nil {
		_ = u.conn.Close() // closed by the client at worst
	}
}

// reader returns what the client sends, for one try. It blocks until the protocol has changed, so that a try
// that fails has read nothing.
func (u *upgrade) reader() io.ReadCloser {
	v := &upgradeView{u: u, closed: make(chan struct{})}
	u.view.Store(v)
	return v
}

// endTunnel is called at the end of a request that asked for another protocol.
func (p *Proxy) endTunnel(u *upgrade) {
	p.tunnels.remove(&u.tunnel)
	if u.idle != nil {
		p.metrics.webSockets.Dec()
	}
	u.close()
}

// upgradeView is the client's bytes as one try reads them.
type upgradeView struct {
	u      *upgrade
	once   sync.Once
	closed chan struct{}
}

// Read waits for bytes of the client.
func (v *upgradeView) Read(p []byte) (int, error) {
	select {
	case <-v.u.opened:
	case <-v.closed:
	case <-v.u.over:
	}
	select {
	case <-v.closed:
		return 0, http.ErrBodyReadAfterClose
	case <-v.u.over:
		return 0, io.EOF
	default:
	}
	if v.u.view.Load() != v { // of a try that failed, and does not know yet
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := v.u.src.Read(p)
	v.u.toll.refund(n)
	v.u.received.Add(int64(n))
	v.u.moved()
	return n, err
}

// Close ends waiting, and not a Read under way.
func (v *upgradeView) Close() error {
	v.once.Do(func() { close(v.closed) })
	return nil
}

// untilHead returns a context that is cancelled after a time, as if that were its deadline, unless lift is
// called before: the protocol changed, and a limit on a request's time is none on a connection's.
func untilHead(ctx context.Context, limit time.Duration) (_ context.Context, lift func() bool, cancel context.CancelCauseFunc) {
	ctx, cancel = context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) })
	return ctx, timer.Stop, cancel
}
