package node

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/egress"
	"github.com/perigee-edge/perigee/internal/origin"
)

// wireEgress makes the way out for functions, under the operator's rules.
func (n *Node) wireEgress() (err error) {
	guard := egress.Guard{Own: n.ownAddress}
	if guard.Allow, err = origin.ParseNetworks(n.cfg.OutboundAllow); err != nil {
		return fmt.Errorf("outbound_allow: %w", err)
	}
	if guard.Deny, err = origin.ParseNetworks(n.cfg.OutboundDeny); err != nil {
		return fmt.Errorf("outbound_deny: %w", err)
	}
	n.egress, err = egress.New(egress.Config{
		Guard: guard, Functions: functions{n}, Logger: n.log, Metrics: egress.NewMetrics(n.registry),
	})
	return err
}

// ownAddress reports whether an address is a port of the mesh, of clients or of administration on this
// machine or on another of the cluster. All nodes are taken to use the ports that any of them uses.
func (n *Node) ownAddress(a netip.AddrPort) bool {
	port, host := false, a.Addr().IsLoopback() || a.Addr().IsUnspecified() || localAddress(a.Addr())
	for _, own := range n.listening() {
		port = port || own.Port() == a.Port()
		host = host || own.Addr().Unmap() == a.Addr()
	}
	for _, p := range n.View().Observed.Nodes {
		port = port || p.Addr.Port() == a.Port()
		host = host || p.Addr.Addr().Unmap() == a.Addr()
		if https, err := netip.ParseAddrPort(p.HTTPS); err == nil {
			port = port || https.Port() == a.Port()
			host = host || https.Addr().Unmap() == a.Addr()
		}
	}
	return port && host
}

// listening returns the addresses of this node's sockets.
func (n *Node) listening() (out []netip.AddrPort) {
	var all []net.Addr
	for _, l := range []net.Listener{n.health, n.cfg.OnHTTPS, n.cfg.OnHTTP} {
		if l != nil {
			all = append(all, l.Addr())
		}
	}
	for _, addr := range append(all, n.cfg.Socket.LocalAddr()) {
		if a, err := netip.ParseAddrPort(addr.String()); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// localAddress reports whether an address is one of this machine's.
func localAddress(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // the machine can't tell, so any may be
	}
	for _, one := range all {
		if p, err := netip.ParsePrefix(one.String()); err == nil && p.Addr().Unmap() == a {
			return true
		}
	}
	return false
}

// functions is the cluster's functions as egress sees them.
type functions struct{ n *Node }

// ServeFunction answers through this node's gateway.
func (f functions) ServeFunction(name string, w http.ResponseWriter, r *http.Request) {
	f.n.serveAs(w, r, name, r.URL.EscapedPath())
}

// outlets is how a loaded revision reaches others.
type outlets struct {
	sender *egress.Transport // of the guest's own requests; nil = it may make none
	next   http.Handler      // what its handler wraps
	origin *egress.Next      // next, if that is not its files
}

// newOutlets makes the outlets that a manifest asks for.
func newOutlets(e *egress.Egress, m *perigee.Manifest, b *bundle.Bundle) (o outlets, err error) {
	if len(m.Outbound) > 0 {
		if o.sender, err = e.Transport(m.Name, m.Outbound); err != nil {
			return o, err
		}
	}
	if m.Next == "" || m.Next == "files" {
		o.next = serveFiles(b.Files)
		return o, nil
	}
	if o.origin, err = e.Next(m.Name, m.Next); err != nil {
		return o, err
	}
	o.next = o.origin
	return o, nil
}

// roundTripper is the sender; a nil interface if there is none.
func (o *outlets) roundTripper() http.RoundTripper {
	if o.sender == nil {
		return nil
	}
	return o.sender
}

// close ends idle connections, when the revision is unloaded.
func (o *outlets) close() {
	if o.sender != nil {
		o.sender.Close()
	}
	if o.origin != nil {
		o.origin.Close()
	}
}
