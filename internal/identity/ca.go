package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// caKind is the end of a CA's common name.
type caKind string

const (
	caMesh         caKind = "mesh CA"
	caIntermediate caKind = "mesh intermediate CA"
	caWeb          caKind = "web CA"
)

func caName(cluster perigee.ClusterID, kind caKind) string {
	return "Perigee " + string(cluster) + " " + string(kind)
}

// parseCAName reads what caName wrote.
func parseCAName(cert *x509.Certificate) (perigee.ClusterID, caKind, error) {
	name := cert.Subject.CommonName
	rest, ok := strings.CutPrefix(name, "Perigee ")
	cluster, kind, _ := strings.Cut(rest, " ")
	if !ok || checkCluster(perigee.ClusterID(cluster)) != nil {
		return "", "", fmt.Errorf("%.80q is no CA of a cluster", name)
	}
	switch k := caKind(kind); k {
	case caMesh, caIntermediate, caWeb:
		return perigee.ClusterID(cluster), k, nil
	}
	return "", "", fmt.Errorf("%.80q is no CA of a cluster", name)
}

// checkRoot reports why a certificate can't be the mesh root of a cluster.
func checkRoot(root *x509.Certificate, cluster perigee.ClusterID) error {
	if err := checkRootForm(root, cluster); err != nil {
		return err
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("%s is not signed by itself: %w", root.Subject.CommonName, err)
	}
	return nil
}

// checkRootForm is checkRoot without the signature, which says nothing about a root that the
// caller already trusts.
func checkRootForm(root *x509.Certificate, cluster perigee.ClusterID) error {
	if root == nil {
		return errors.New("no root certificate")
	}
	got, kind, err := parseCAName(root)
	switch {
	case err != nil:
		return err
	case kind != caMesh:
		return fmt.Errorf("%s is not the root of a mesh", root.Subject.CommonName)
	case got != cluster:
		return fmt.Errorf("root of cluster %s, want that of %s", got, cluster)
	}
	return checkMeshCA(root)
}

// checkMeshCA reports why a certificate may not sign node certificates. crypto/x509 ignores some
// of this when it verifies a chain.
func checkMeshCA(ca *x509.Certificate) error {
	if _, ok := ca.PublicKey.(ed25519.PublicKey); !ok {
		return fmt.Errorf("CA with an %s key: want an Ed25519 key", keyKind(ca.PublicKey))
	}
	return checkCA(ca)
}

func checkWebRoot(ca *x509.Certificate) error {
	if k, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return fmt.Errorf("CA with an %s key: want an ECDSA P-256 key", keyKind(ca.PublicKey))
	}
	if err := ca.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("%s is not signed by itself: %w", ca.Subject.CommonName, err)
	}
	return checkCA(ca)
}

func checkCA(ca *x509.Certificate) error {
	if ca.Version != 3 || !ca.BasicConstraintsValid || !ca.IsCA || ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("certificate %.80q may not sign others", ca.Subject.CommonName)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
