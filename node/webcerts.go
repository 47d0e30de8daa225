package node

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/placement"
)

// webCerts are the certificates of the View that are sealed to this node, opened. update is called when
// the View changes, by one goroutine; the rest is safe for concurrent use.
type webCerts struct {
	m    *membership
	view func() *perigee.View
	log  *slog.Logger
	open atomic.Pointer[map[perigee.WebName]*openCert]
}

type openCert struct {
	entry *perigee.WebEntry
	cert  *tls.Certificate // nil = not for this node, or unusable
}

func newWebCerts(n *Node) *webCerts {
	w := &webCerts{m: n.m, view: n.View, log: n.log}
	w.open.Store(&map[perigee.WebName]*openCert{})
	return w
}

// update opens what is new.
func (w *webCerts) update(all map[perigee.WebName]*perigee.WebEntry) {
	before := *w.open.Load()
	now := make(map[perigee.WebName]*openCert, len(all))
	for name, e := range all {
		if name.Item != perigee.WebCertificate {
			continue
		}
		if _, ok := placement.Terminates(w.view().Desired, name.Name, w.m.identity.Claims()); !ok {
			continue // it may have been sealed to this node before a residency excluded it
		}
		if old := before[name]; old != nil && old.entry.Version == e.Version && old.entry.By == e.By {
			now[name] = old
			continue
		}
		cert, err := w.openCert(e)
		if err != nil {
			w.log.Warn("open a shared certificate", "host", name.Name, "err", err)
		}
		now[name] = &openCert{e, cert}
	}
	w.open.Store(&now)
}

func (w *webCerts) openCert(e *perigee.WebEntry) (*tls.Certificate, error) {
	var c acme.Certificate
	if ok, err := w.m.unseal(e, &c); !ok || err != nil {
		return nil, err
	}
	return c.Parse(e.Name)
}

// forHost returns the shared certificate for a host, if there is one that this node can use.
func (w *webCerts) forHost(host string) *tls.Certificate {
	e := w.view().Desired.CertificateFor(host)
	if e == nil {
		return nil
	}
	o := (*w.open.Load())[e.WebName]
	if o == nil || o.cert == nil || !time.Now().Before(o.cert.Leaf.NotAfter) {
		return nil
	}
	return o.cert
}

// unseal opens an entry into v; ok is false if it is not sealed to this node.
func (m *membership) unseal(e *perigee.WebEntry, v any) (ok bool, err error) {
	env, err := identity.ParseEnvelope(e.Sealed)
	if err != nil {
		return false, err
	}
	if !env.SealedTo(m.identity.Claims().ID) {
		return false, nil
	}
	b, err := m.identity.Unseal(env, m.sealContext(e.WebName, e.Version))
	if err != nil {
		return false, err
	}
	return true, acme.Unpack(b, v)
}

func (m *membership) sealContext(name perigee.WebName, version uint64) identity.SealContext {
	return identity.SealContext{Cluster: m.genesis.Cluster, Kind: "web-" + string(name.Item), Name: name.Name, Version: version}
}

// IsPublicHost reports whether a public CA could certify a host: special names (RFC 6761, RFC 6762, ICANN's
// .internal) and those without a dot are nobody's.
func IsPublicHost(host string) bool {
	at := strings.LastIndexByte(host, '.')
	if at < 0 {
		return false
	}
	switch host[at+1:] {
	case "localhost", "local", "internal", "invalid", "test", "onion", "arpa":
		return false
	}
	return true
}

// left returns the seconds until the first certificate ends.
func (w *webCerts) left(now time.Time) float64 {
	least := math.Inf(1)
	for name, o := range *w.open.Load() {
		if o.cert != nil && len(w.view().Desired.FunctionsAt(name.Name)) > 0 {
			least = min(least, o.cert.Leaf.NotAfter.Sub(now).Seconds())
		}
	}
	return least
}

// expiring is how close to its end a certificate is worth an alarm: its renewal has failed for long.
const expiring = 7 * 24 * time.Hour

// worries returns the shared certificates that end soon, or have ended, as lines for people.
func (w *webCerts) worries(now time.Time) (out []string) {
	for name, o := range *w.open.Load() {
		if len(w.view().Desired.FunctionsAt(name.Name)) == 0 {
			continue
		}
		if ids := strays(w.view(), o.entry); len(ids) > 0 {
			out = append(out, fmt.Sprintf("the key of the certificate of %s is with %v, which may not have it any more: unless `perigee cert ls` shows that another is being ordered, import one", name.Name, ids))
		}
		if o.cert == nil {
			continue
		}
		life := o.cert.Leaf.NotAfter.Sub(o.cert.Leaf.NotBefore)
		if left := o.cert.Leaf.NotAfter.Sub(now); left < min(expiring, life/6) {
			out = append(out, fmt.Sprintf("the certificate of %s ends in %v: see `perigee cert ls`", name.Name, left.Round(time.Hour)))
		}
	}
	return out
}
