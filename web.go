package perigee

import (
	"strings"
	"time"
)

// A WebItem is a kind of thing that nodes share to answer HTTPS.
type WebItem string

// The items.
const (
	WebCertificate WebItem = "certificate" // a chain from a public CA and its key
	WebAccount     WebItem = "account"     // the account with that CA
	WebTickets     WebItem = "tickets"     // keys of TLS session tickets
	WebOrders      WebItem = "orders"      // when certificates were ordered
)

// WebName names one of them.
type WebName struct {
	Item WebItem
	Name string // the host of a certificate or of orders, or "*." and a domain; the URL of an account's CA; of tickets a host, or AllHosts
}

// AllHosts names the ticket keys of the hosts whose TLS may end at every node.
const AllHosts = "*"

// WebEntry is a shared thing. What it is only the nodes can read that it is sealed to.
type WebEntry struct {
	WebName
	Version uint64
	Expires time.Time // zero = never
	Created time.Time
	By      NodeID // the issuer that wrote it
	Sealed  []byte // an envelope of package identity; not to be changed
}

// CertificateFor returns the shared certificate for a host (lower case, without a port), or nil: its own,
// else the one for all names directly below its domain.
func (d *Desired) CertificateFor(host string) *WebEntry {
	if e := d.Web[WebName{WebCertificate, host}]; e != nil {
		return e
	}
	if _, domain, ok := strings.Cut(host, "."); ok {
		return d.Web[WebName{WebCertificate, "*." + domain}]
	}
	return nil
}

// FunctionsAt returns the functions that answer at a host, or, for "*." and a domain, at any host directly
// below it.
func (d *Desired) FunctionsAt(name string) (list []*Function) {
	domain, wild := strings.CutPrefix(name, "*.")
	for host, routes := range d.routes {
		if host != name && !(wild && DirectlyBelow(host, domain)) {
			continue
		}
		for _, r := range routes {
			list = append(list, r.fn)
		}
	}
	return list
}

// DirectlyBelow reports whether a host is a domain with one more label in front.
func DirectlyBelow(host, domain string) bool {
	label, rest, ok := strings.Cut(host, ".")
	return ok && label != "" && rest == domain
}
