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
)

// WebName names one of them.
type WebName struct {
	Item WebItem
	Name string // the host of a certificate, or "*." and a domain; the URL of an account's CA
}

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
