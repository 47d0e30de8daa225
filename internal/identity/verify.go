package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// nodeUsage is what node certificates, and the intermediates above them, are for.
var nodeUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}

const (
	maxChain = 3       // leaf, intermediate, and the root where a chain includes it
	maxCert  = 4 << 10 // bytes of one certificate
)

// VerifyNode checks the chain of a node and returns its claims and its leaf: every signature up to
// root, what each certificate may be used for, and that the leaf is a node of this cluster.
//
// The times of all certificates must cover at. The zero time means that the age of the leaf does not
// matter (a node may renew at any age): the chain is then judged at the moment the leaf became
// valid. Revocation is for the caller to check.
func VerifyNode(root *x509.Certificate, cluster perigee.ClusterID, chain [][]byte, at time.Time) (perigee.NodeClaims, *x509.Certificate, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return perigee.NodeClaims{}, nil, fmt.Errorf("verify node certificate: %w", err)
	}
	claims, err := verifyNode(root, cluster, certs, at)
	if err != nil {
		return perigee.NodeClaims{}, nil, err
	}
	return claims, certs[0], nil
}

func verifyNode(root *x509.Certificate, cluster perigee.ClusterID, chain []*x509.Certificate, at time.Time) (perigee.NodeClaims, error) {
	claims, err := checkNode(root, cluster, chain, at)
	if err != nil {
		return perigee.NodeClaims{}, fmt.Errorf("verify node certificate: %w", err)
	}
	return claims, nil
}

func checkNode(root *x509.Certificate, cluster perigee.ClusterID, chain []*x509.Certificate, at time.Time) (perigee.NodeClaims, error) {
	var none perigee.NodeClaims
	if err := checkRootForm(root, cluster); err != nil {
		return none, err
	}
	if len(chain) == 0 || len(chain) >= maxChain {
		return none, fmt.Errorf("chain of %d certificates: want the leaf and at most one intermediate, without the root", len(chain))
	}
	for _, cert := range chain {
		if err := checkSize(cert.Raw); err != nil {
			return none, err
		}
	}
	leaf := chain[0]
	got, claims, err := claimsOf(leaf)
	if err != nil {
		return none, err
	}
	if got != cluster {
		return none, fmt.Errorf("node %s belongs to cluster %s, this is %s", claims.ID, got, cluster)
	}
	if err := checkLeaf(leaf); err != nil {
		return none, fmt.Errorf("node %s: %w", claims.ID, err)
	}
	for _, ca := range chain[1:] {
		if err := checkMeshCA(ca); err != nil {
			return none, fmt.Errorf("node %s: %w", claims.ID, err)
		}
	}
	if at.IsZero() {
		at = leaf.NotBefore
	}
	if err := checkSignatures(root, chain, at); err != nil {
		return none, fmt.Errorf("node %s: %w", claims.ID, err)
	}
	return claims, nil
}

// checkLeaf reports why a certificate has not the form of a node's.
func checkLeaf(leaf *x509.Certificate) error {
	if _, ok := leaf.PublicKey.(ed25519.PublicKey); !ok {
		return fmt.Errorf("its certificate has an %s key: want an Ed25519 key", keyKind(leaf.PublicKey))
	}
	switch {
	case leaf.Version != 3 || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("its certificate is not one for signing handshakes only")
	case len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) != len(nodeUsage) || !hasUsage(leaf):
		return errors.New("its certificate is not one for TLS clients and servers both")
	}
	return nil
}

func hasUsage(cert *x509.Certificate) bool {
	for _, u := range nodeUsage {
		if !slices.Contains(cert.ExtKeyUsage, u) {
			return false
		}
	}
	return true
}

// checkSignatures verifies the chain exactly as presented: no certificate skipped, none to spare.
func checkSignatures(root *x509.Certificate, chain []*x509.Certificate, at time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, ca := range chain[1:] {
		between.AddCert(ca)
	}
	built, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return explain(err, at)
	}
	want := append(slices.Clone(chain), root)
	for _, b := range built {
		if slices.EqualFunc(b, want, (*x509.Certificate).Equal) {
			return serverUsage(chain[1:])
		}
	}
	return errors.New("its chain has certificates that do not belong to it")
}

// serverUsage checks the second usage, as x509.Verify is satisfied with one of several.
func serverUsage(cas []*x509.Certificate) error {
	for _, ca := range cas {
		if len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) > 0 && !hasUsage(ca) {
			return fmt.Errorf("%.80q may not sign certificates of nodes", ca.Subject.CommonName)
		}
	}
	return nil
}

// ErrOtherCA is returned for the certificate of a node whose chain leads to another root than this cluster's.
var ErrOtherCA = errors.New("its certificate is not signed by this cluster's CA")

// explain says what to do about a failed verification.
func explain(err error, at time.Time) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("certificate of %.80q is valid from %s to %s and it is %s: check the clocks of both machines; a node whose certificate ran out renews it when it starts",
			invalid.Cert.Subject.CommonName, stamp(invalid.Cert.NotBefore), stamp(invalid.Cert.NotAfter), stamp(at))
	case errors.As(err, &unknown):
		return ErrOtherCA
	}
	return err
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("chain of %d certificates: want 1 to %d", len(chain), maxChain)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := parseCert(der)
		if err != nil {
			return nil, err
		}
		certs[i] = cert
	}
	return certs, nil
}

func parseCert(der []byte) (*x509.Certificate, error) {
	if err := checkSize(der); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return cert, nil
}

func checkSize(der []byte) error {
	if len(der) > maxCert {
		return fmt.Errorf("certificate of %d bytes, the limit is %d", len(der), maxCert)
	}
	return nil
}
