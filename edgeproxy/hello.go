package edgeproxy

import (
	"crypto/tls"
	"errors"
	"net"
)

// maxHello bounds what is read of a connection to find its ClientHello, in bytes. The largest hellos have
// post-quantum keys, some KiB; crypto/tls takes up to 64 KiB.
const maxHello = 64 << 10

var (
	errHello     = errors.New("the hello is read") // ends a handshake there
	errLongHello = errors.New("the hello does not end")
)

// readHello reads a connection up to the end of its ClientHello, in however many records and segments it
// comes, and returns the host that it names, in its canonical form, and all bytes read. ok is false if these
// bytes are no ClientHello; err is that of reading. Nothing is written.
func readHello(conn net.Conn) (host string, read []byte, ok bool, err error) {
	r := &helloConn{Conn: conn}
	srv := tls.Server(r, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		host, ok = canonicalHost(h.ServerName), true
		return nil, errHello
	}})
	_ = srv.Handshake() // always fails
	return host, r.read, ok, r.err
}

// helloConn remembers what is read, up to a bound, and swallows what is written.
type helloConn struct {
	net.Conn
	read []byte
	err  error // of reading
}

func (c *helloConn) Read(p []byte) (int, error) {
	if len(c.read) >= maxHello {
		c.err = errLongHello
		return 0, c.err
	}
	n, err := c.Conn.Read(p[:min(len(p), maxHello-len(c.read))])
	c.read = append(c.read, p[:n]...)
	if err != nil {
		c.err = err
	}
	return n, err
}

func (c *helloConn) Write(p []byte) (int, error) { return len(p), nil }

// readAgain is a connection of which the first bytes were read already.
type readAgain struct {
	net.Conn
	first []byte
}

// Read returns the first bytes, then those that follow.
func (c *readAgain) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		c.first = nil
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	c.first = c.first[n:]
	return n, nil
}
