package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/perigee-edge/perigee/internal/digest"
)

// ListenMesh opens the mesh's UDP socket.
func ListenMesh(addr string) (net.PacketConn, error) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s (listen in node.toml): %w", addr, hint(err))
	}
	return c, nil
}

// ListenMeshTCP opens the TCP port of the number that a mesh socket has, for peers that UDP does not reach. It
// returns nil if the socket is not one of the system's: what simulates a network has no TCP.
func ListenMeshTCP(socket net.PacketConn) (net.Listener, error) {
	if _, ok := socket.(*net.UDPConn); !ok {
		return nil, nil
	}
	l, err := net.Listen("tcp", socket.LocalAddr().String())
	if err != nil {
		return nil, fmt.Errorf("listen on tcp %s, beside the mesh's UDP port: %w", socket.LocalAddr(), hint(err))
	}
	return l, nil
}

// listen opens what the node listens on, so that a taken port is said before anything runs.
func (n *Node) listen() (err error) {
	n.inherit()
	if n.cfg.Socket == nil {
		if n.cfg.Socket, err = ListenMesh(n.cfg.Listen); err != nil {
			return err
		}
	}
	if n.admin, err = listenSocket(n.cfg.AdminSocket); err != nil {
		return err
	}
	for _, l := range []struct {
		addr string
		on   *net.Listener
		key  string
	}{{n.cfg.Admin, &n.health, "admin_http"}, {n.cfg.HTTPS, &n.cfg.OnHTTPS, "https"}, {n.cfg.HTTP, &n.cfg.OnHTTP, "http"}} {
		if l.addr == "" || *l.on != nil {
			continue
		}
		if *l.on, err = net.Listen("tcp", l.addr); err != nil {
			return fmt.Errorf("listen on %s (%s in node.toml): %w", l.addr, l.key, hint(err))
		}
	}
	if n.meshTCP == nil { // last, since most clusters do without, and others may have that port by the settings
		if n.meshTCP, err = ListenMeshTCP(n.cfg.Socket); err != nil {
			n.noTCP = err.Error()
			n.log.Info("the mesh has no TCP port: peers that UDP does not reach are not reached", "err", err)
		}
	}
	if n.cfg.DisableHTTP3 || n.cfg.OnHTTPS == nil || n.cfg.OnHTTP3 != nil {
		return nil
	}
	return n.listenHTTP3()
}

// listenHTTP3 opens the UDP port of the HTTPS listener. Where the system chose that one, it may have
// chosen a number that is taken for UDP: then it chooses again.
func (n *Node) listenHTTP3() (err error) {
	_, port, _ := net.SplitHostPort(n.cfg.HTTPS)
	for range 10 {
		if n.cfg.OnHTTP3, err = net.ListenPacket("udp", n.cfg.OnHTTPS.Addr().String()); err == nil {
			return nil
		}
		if port != "0" || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		n.cfg.OnHTTPS.Close()
		if n.cfg.OnHTTPS, err = net.Listen("tcp", n.cfg.HTTPS); err != nil {
			break
		}
	}
	n.cfg.OnHTTP3 = nil
	return fmt.Errorf("listen on udp %s (http3 in node.toml): %w", n.cfg.HTTPS, hint(err))
}

// hint adds what to do to the errors that a first start meets most.
func hint(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has this port; `ss -lntup` shows which; stop it or set another port in node.toml", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: ports below 1024 need the right CAP_NET_BIND_SERVICE (the systemd unit gives it); or set a higher port in node.toml", err)
	}
	return err
}

// listenSocket makes the admin socket, for this user only. A socket that nobody answers is left
// over from a crash and replaced; any other file is left alone.
func listenSocket(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("admin socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("admin socket %s: a file that is no socket is there: remove it, or set another admin_socket in node.toml", path)
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("admin socket %s: another program answers there: stop it, or set another admin_socket in node.toml", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

// socketPathLimit is the longest path of a unix socket that all systems take.
const socketPathLimit = 100

// SocketPath returns path, or, where it is too long for a unix socket, a short one in the system's
// directory for temporary files that follows from it.
func SocketPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil || len(abs) <= socketPathLimit {
		return path
	}
	name := digest.Sum([]byte(abs))
	return filepath.Join(os.TempDir(), "perigee-"+hex.EncodeToString(name[:6])+".sock")
}

// dialSocket connects to an admin socket. In a directory where everybody may write, somebody else
// could wait for what this user has to say.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() != 0 && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("admin socket %s belongs to user %d: run this as that user or as root", path, st.Uid)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

const (
	headTime = 10 * time.Second // for the head of a request
	stopTime = 2 * time.Second  // for handlers to end after their requests were canceled
	maxHead  = 64 << 10
)

// serve runs an HTTP server on l until ctx ends. Requests end with ctx; it returns when their
// handlers have.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	var running sync.WaitGroup
	var mu sync.Mutex // guards ended, so that running is not waited for before it is added to
	ended := false
	enter := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			running.Add(1)
		}
		return !ended
	}
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !enter() {
				http.Error(w, "the node is stopping", http.StatusServiceUnavailable)
				return
			}
			defer running.Done()
			h.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headTime,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHead,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if s.Shutdown(last) != nil {
			s.Close() // ends reads and writes that wait for a client
		}
	})
	err := s.Serve(l)
	if stop() { // the listener failed
		s.Close()
	} else {
		<-stopped
		err = nil
	}
	mu.Lock()
	ended = true
	mu.Unlock()
	running.Wait()
	return err
}
