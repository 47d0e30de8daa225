package egress

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
)

// webSocket is the one protocol that an origin may be asked to go on in.
const webSocket = "websocket"

// Upgrade is where the connection to an origin waits that has become a WebSocket, for whoever copies its
// bytes: the function that stands before the origin ends first.
type Upgrade struct {
	mu   sync.Mutex // guards conn
	conn io.ReadWriteCloser
}

type upgradeKey struct{}

// WithUpgrade returns a context with which a Next passes the wish for a WebSocket on: a request with the field
// Upgrade. An origin that agrees is answered for with status 101, and its connection is in the Upgrade.
func WithUpgrade(ctx context.Context) (context.Context, *Upgrade) {
	u := &Upgrade{}
	return context.WithValue(ctx, upgradeKey{}, u), u
}

// Take returns the connection, which the caller must close; nil = there is none.
func (u *Upgrade) Take() io.ReadWriteCloser {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.conn
	u.conn = nil
	return c
}

// has reports whether there is a connection.
func (u *Upgrade) has() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.conn != nil
}

// upgradeOf returns where the connection is to go, if a request asks for one and its sender takes it.
func upgradeOf(r *http.Request) *Upgrade {
	u, _ := r.Context().Value(upgradeKey{}).(*Upgrade)
	if u == nil || !strings.EqualFold(r.Header.Get("Upgrade"), webSocket) {
		return nil
	}
	return u
}

// ask adds the handshake to a request (RFC 6455, section 4.1), and returns its key.
func (u *Upgrade) ask(h http.Header) (key string) {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	key = base64.StdEncoding.EncodeToString(raw[:])
	h["Connection"], h["Upgrade"], h["Sec-Websocket-Key"] = []string{"Upgrade"}, []string{webSocket}, []string{key}
	return key
}

// accept takes the connection of a response with status 101 to the handshake of that key.
func (u *Upgrade) accept(resp *http.Response, key string, leave func(), m *Metrics) error {
	conn, ok := resp.Body.(io.ReadWriteCloser)
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if !ok || !strings.EqualFold(resp.Header.Get("Upgrade"), webSocket) || resp.Header.Get("Sec-Websocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
		resp.Body.Close()
		return errors.New("the origin changed the protocol, but not as it was asked to")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conn = &upgraded{conn, leave, m}
	resp.Body = http.NoBody
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept"} {
		delete(resp.Header, name)
	}
	resp.StatusCode = http.StatusOK // for ReverseProxy, which would take the connection
	return nil
}

// upgraded is a WebSocket to an origin: counted, and the end of its request.
type upgraded struct {
	io.ReadWriteCloser
	leave   func()
	metrics *Metrics
}

// Read reads what the origin sends.
func (c *upgraded) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	c.metrics.received.Add(float64(n))
	return n, err
}

// Close ends the connection.
func (c *upgraded) Close() error {
	c.leave()
	return c.ReadWriteCloser.Close()
}

// upgradeWriter says that the protocol changes, where ReverseProxy sees a usual answer.
type upgradeWriter struct {
	http.ResponseWriter
	upgrade *Upgrade
}

// Unwrap is for http.ResponseController.
func (w *upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader writes the head.
func (w *upgradeWriter) WriteHeader(status int) {
	if status == http.StatusOK && w.upgrade.has() {
		status = http.StatusSwitchingProtocols
	}
	w.ResponseWriter.WriteHeader(status)
}

// upgrading is the transport of a Next.
type upgrading struct{ *Transport }

// RoundTrip sends a request, with the wish for a WebSocket if it has one.
func (t upgrading) RoundTrip(r *http.Request) (*http.Response, error) {
	u, _ := r.Context().Value(upgradeKey{}).(*Upgrade)
	return t.send(r, u)
}
