package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

const day365 = 365 * day

// lab is a cluster a year old: its CAs were made then, its nodes' certificates are new.
type lab struct {
	t       *testing.T
	cluster perigee.ClusterID
	now     time.Time
	root    *Authority
	signer  *Authority // the intermediate
}

func newLab(t *testing.T) *lab {
	t.Helper()
	return newLabOf(t, NewClusterID())
}

func newLabOf(t *testing.T, cluster perigee.ClusterID) *lab {
	t.Helper()
	l := &lab{t: t, cluster: cluster, now: time.Now()}
	l.root = must(NewRoot(cluster, l.now.Add(-day365)))(t)
	l.signer = must(l.root.NewIntermediate(l.now.Add(-day365)))(t)
	return l
}

// must unwraps a result that has to be good.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func claimsFor(id perigee.NodeID) perigee.NodeClaims {
	return perigee.NodeClaims{ID: id, Region: "fra"}
}

// node makes a node whose certificate was issued some time ago.
func (l *lab) node(id perigee.NodeID, age time.Duration) *Node {
	l.t.Helper()
	key := must(NewKey())(l.t)
	return must(NewNode(l.cluster, l.root.Cert(), key, l.issue(claimsFor(id), key, age)))(l.t)
}

func (l *lab) issue(c perigee.NodeClaims, key ed25519.PrivateKey, age time.Duration) [][]byte {
	l.t.Helper()
	return must(l.signer.IssueNode(l.cluster, c, public(key), l.now.Add(-age)))(l.t)
}

// leafTemplate is what IssueNode signs, for tests to spoil.
func (l *lab) leafTemplate(uri string) *x509.Certificate {
	l.t.Helper()
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "spoilt"}, URIs: []*url.URL{must(url.Parse(uri))(l.t)},
		NotBefore: l.now.Add(-leafBackdate), NotAfter: l.now.Add(NodeLifetime), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: nodeUsage,
	}
}

func (l *lab) uri(id perigee.NodeID) string { return encodeClaims(l.cluster, claimsFor(id)) }

// forge signs any template with the intermediate and returns the chain.
func (l *lab) forge(tmpl *x509.Certificate, pub crypto.PublicKey) [][]byte {
	l.t.Helper()
	leaf := must(sign(tmpl, l.signer.Cert(), pub, l.signer.key))(l.t)
	return [][]byte{leaf.Raw, l.signer.Cert().Raw}
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func ecdsaKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	return must(rsa.GenerateKey(rand.Reader, 2048))(t)
}

// wantError fails unless err says all of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
