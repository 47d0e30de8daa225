package egress

import (
	"fmt"
	"net/netip"
	"syscall"

	"github.com/perigee-edge/perigee/internal/origin"
)

// Guard decides which addresses a function may reach. It looks at the resolved address, at the moment
// when the socket is about to connect, so that it does not matter how the address was spelled, what a
// resolver says the next time, or which redirect led there. It is not changed after it was made.
type Guard struct {
	// Allow has addresses that are reachable although they are not public. An entry with a port may
	// be one of the cluster's own; a range never covers those.
	Allow []origin.Network

	// Deny has addresses that are not reachable, whatever else is said.
	Deny []origin.Network

	// Own reports whether an address is one of the cluster's: a node's mesh, gateway or administration.
	// nil = none is known.
	Own func(netip.AddrPort) bool
}

// DeniedError says that a request may not go where it was to go. Rule is short and constant.
type DeniedError struct {
	Rule   string
	Target string // what was asked for: an origin or an address
	hint   string
}

// Error names the target, the rule and what can be done.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("outbound to %s is denied: %s: %s", e.Target, e.Rule, e.hint)
}

// Denied tells this error from failures of the network.
func (*DeniedError) Denied() bool { return true }

// Check returns nil if a function may connect to an address, or a *DeniedError that names the rule.
func (g *Guard) Check(a netip.AddrPort) error {
	if rule := g.rule(a); rule != "" {
		return &DeniedError{Rule: rule, Target: a.String(), hint: "functions reach public addresses only, and what the operator lists under outbound_allow in node.toml"}
	}
	return nil
}

// rule returns the rule that forbids an address, or "".
func (g *Guard) rule(a netip.AddrPort) string {
	addr := a.Addr()
	if !addr.IsValid() || addr.Zone() != "" {
		return "zone"
	}
	a = netip.AddrPortFrom(addr.Unmap(), a.Port())
	if has(g.Deny, a, false) {
		return "outbound_deny"
	}
	if has(g.Allow, a, true) {
		return ""
	}
	if g.Own != nil && g.Own(a) {
		return "own-cluster"
	}
	if has(g.Allow, a, false) {
		return ""
	}
	return g.special(a)
}

// special returns why an address is not a public one, or "".
func (g *Guard) special(a netip.AddrPort) string {
	addr := a.Addr()
	for _, f := range forbidden {
		if f.prefix.Contains(addr) {
			return f.rule
		}
	}
	if addr.Is4() {
		return ""
	}
	carried := false
	for _, c := range carriers {
		if !c.prefix.Contains(addr) {
			continue
		}
		carried = true
		if rule := g.inner(netip.AddrPortFrom(embedded(addr, c.at, c.xor), a.Port())); rule != "" {
			return rule
		}
	}
	if !carried && !publicV6.Contains(addr) {
		return "not-global"
	}
	return ""
}

// inner is rule for an address that another one leads to. What the operator allows is meant for the
// address itself, so it does not count.
func (g *Guard) inner(a netip.AddrPort) string {
	switch {
	case has(g.Deny, a, false):
		return "outbound_deny"
	case g.Own != nil && g.Own(a):
		return "own-cluster"
	}
	return g.special(a)
}

// embedded returns the IPv4 address that starts at a byte of an IPv6 address.
func embedded(addr netip.Addr, at int, xor byte) netip.Addr {
	b := addr.As16()
	return netip.AddrFrom4([4]byte{b[at] ^ xor, b[at+1] ^ xor, b[at+2] ^ xor, b[at+3] ^ xor})
}

func has(list []origin.Network, a netip.AddrPort, exact bool) bool {
	for _, n := range list {
		if n.Has(a) && (!exact || n.Exact()) {
			return true
		}
	}
	return false
}

// control is called by the dialer with the address that a socket is about to connect to.
func (g *Guard) control(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return &DeniedError{Rule: "zone", Target: address, hint: "it is no address and port"}
	}
	return g.Check(a)
}
