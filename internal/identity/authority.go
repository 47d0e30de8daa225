package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/perigee-edge/perigee"
)

// Authority is a CA certificate and its key. It is immutable and safe for concurrent use. Printing
// or logging one does not show the key.
type Authority struct {
	cluster perigee.ClusterID
	kind    caKind
	chain   []*x509.Certificate // own certificate first, up to and including the root
	key     crypto.Signer
}

// NewRoot makes the root of a cluster's mesh: what every node certificate chains to.
func NewRoot(cluster perigee.ClusterID, now time.Time) (*Authority, error) {
	return newRoot(cluster, caMesh, now)
}

// NewWebRoot makes the CA for hosts that have no public name. Clients of such hosts install it.
func NewWebRoot(cluster perigee.ClusterID, now time.Time) (*Authority, error) {
	return newRoot(cluster, caWeb, now)
}

func newRoot(cluster perigee.ClusterID, kind caKind, now time.Time) (*Authority, error) {
	if err := checkCluster(cluster); err != nil {
		return nil, fmt.Errorf("make %s: %w", kind, err)
	}
	tmpl := caTemplate(cluster, kind, now, RootLifetime)
	if kind == caWeb {
		tmpl.MaxPathLenZero = true
	} else {
		tmpl.MaxPathLen = 1
	}
	return makeCA(&Authority{cluster: cluster, kind: kind}, tmpl, nil)
}

// NewIntermediate makes a CA below a mesh root that can issue node leafs and nothing else: what
// signer nodes hold.
func (a *Authority) NewIntermediate(now time.Time) (*Authority, error) {
	if a.kind != caMesh {
		return nil, fmt.Errorf("make intermediate CA: a %s can't: only the root of the mesh can", a.kind)
	}
	tmpl := caTemplate(a.cluster, caIntermediate, now, IntermediateLifetime)
	tmpl.MaxPathLenZero = true
	tmpl.ExtKeyUsage = nodeUsage
	if err := a.clamp(tmpl, now); err != nil {
		return nil, fmt.Errorf("make intermediate CA: %w", err)
	}
	return makeCA(&Authority{cluster: a.cluster, kind: caIntermediate}, tmpl, a)
}

func caTemplate(cluster perigee.ClusterID, kind caKind, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: caName(cluster, kind)},
		NotBefore:             now.Add(-caBackdate),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// makeCA gives a its key, and the certificate of tmpl signed by parent, or by itself if parent is nil.
func makeCA(a *Authority, tmpl *x509.Certificate, parent *Authority) (*Authority, error) {
	key, err := newCAKey(a.kind)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", a.kind, err)
	}
	issuer, signer, above := tmpl, key, []*x509.Certificate(nil)
	if parent != nil {
		issuer, signer, above = parent.Cert(), parent.key, parent.chain
	}
	cert, err := sign(tmpl, issuer, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", a.kind, err)
	}
	a.key = key
	a.chain = append([]*x509.Certificate{cert}, above...)
	return a, nil
}

func newCAKey(kind caKind) (crypto.Signer, error) {
	if kind == caWeb {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return NewKey()
}

func sign(tmpl, issuer *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, pub, signer) // chooses the serial number
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// clamp keeps a certificate inside the life of its issuer, so that it never outlives its chain.
func (a *Authority) clamp(tmpl *x509.Certificate, now time.Time) error {
	ca := a.Cert()
	if now.Before(ca.NotBefore) || now.After(ca.NotAfter) {
		return fmt.Errorf("%s is valid from %s to %s and it is %s: check this machine's clock, or make a new CA",
			ca.Subject.CommonName, stamp(ca.NotBefore), stamp(ca.NotAfter), stamp(now))
	}
	if tmpl.NotBefore.Before(ca.NotBefore) {
		tmpl.NotBefore = ca.NotBefore
	}
	if tmpl.NotAfter.After(ca.NotAfter) {
		tmpl.NotAfter = ca.NotAfter
	}
	return nil
}

// Cert returns the CA's own certificate.
func (a *Authority) Cert() *x509.Certificate { return a.chain[0] }

// Cluster returns the cluster that the CA belongs to.
func (a *Authority) Cluster() perigee.ClusterID { return a.cluster }

// IssueNode certifies that the holder of pub is the node that the claims describe. The chain has
// the leaf first and then the intermediate, if a is one; the root is left out.
func (a *Authority) IssueNode(cluster perigee.ClusterID, c perigee.NodeClaims, pub ed25519.PublicKey, now time.Time) (chain [][]byte, err error) {
	switch {
	case a.kind == caWeb:
		return nil, errors.New("issue node certificate: a web CA can't: use the CA of the mesh")
	case cluster != a.cluster:
		return nil, fmt.Errorf("issue node certificate: for cluster %.40q, but the CA is of %s", cluster, a.cluster)
	case len(pub) != ed25519.PublicKeySize:
		return nil, fmt.Errorf("issue node certificate: public key of %d bytes: want an Ed25519 key of %d", len(pub), ed25519.PublicKeySize)
	}
	for _, ca := range a.chain {
		if pub.Equal(ca.PublicKey) {
			return nil, errors.New("issue node certificate: the public key is that of a CA: make a key for the node")
		}
	}
	if err := checkClaims(cluster, c); err != nil {
		return nil, fmt.Errorf("issue node certificate: %w", err)
	}
	uri, err := url.Parse(encodeClaims(cluster, c))
	if err != nil {
		return nil, fmt.Errorf("issue node certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: string(c.ID)},
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-leafBackdate),
		NotAfter:              now.Add(NodeLifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           nodeUsage,
	}
	if err := a.clamp(tmpl, now); err != nil {
		return nil, fmt.Errorf("issue node certificate for %s: %w", c.ID, err)
	}
	leaf, err := sign(tmpl, a.Cert(), pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue node certificate for %s: %w", c.ID, err)
	}
	return a.below(leaf), nil
}

// below returns the chain of a certificate that a signed, without the root.
func (a *Authority) below(leaf *x509.Certificate) [][]byte {
	chain := [][]byte{leaf.Raw}
	for _, ca := range a.chain[:len(a.chain)-1] {
		chain = append(chain, ca.Raw)
	}
	return chain
}

// String names the CA. It does not show the key.
func (a *Authority) String() string { return a.Cert().Subject.CommonName }

// Format writes String for every verb, so that no verb shows the key.
func (a *Authority) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// LogValue returns String.
func (a *Authority) LogValue() slog.Value { return slog.StringValue(a.String()) }
