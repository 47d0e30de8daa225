package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// AdminServerTLS returns the configuration for accepting people. A person presents a certificate
// that their own key signed; it says nothing but the key, which PersonKey returns. Whether the key
// may do anything is for the caller to decide. The server's chain includes the root, for those who
// have only its digest.
func (n *Node) AdminServerTLS(alpn string) *tls.Config {
	c := n.serverTLS([]string{alpn}, func(c *credential) *tls.Certificate { return c.withRoot })
	c.ClientAuth = tls.RequireAnyClientCert // the key is the identity, see PersonKey
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := checkProtocol(cs, []string{alpn}); err != nil {
			return err
		}
		_, err := personKey(cs.PeerCertificates)
		return err
	}
	return c
}

// PersonClientTLS returns the configuration for a person who dials a node of a cluster they know.
func PersonClientTLS(alpn string, key ed25519.PrivateKey, root *x509.Certificate, cluster perigee.ClusterID) (*tls.Config, error) {
	if err := checkRoot(root, cluster); err != nil {
		return nil, fmt.Errorf("set up person's connection: %w", err)
	}
	cert, err := personCertificate(key)
	if err != nil {
		return nil, fmt.Errorf("set up person's connection: %w", err)
	}
	c := clientTLS(alpn, func(cs tls.ConnectionState) error {
		chain := cs.PeerCertificates
		if last := len(chain) - 1; last > 0 {
			switch _, kind, _ := parseCAName(chain[last]); {
			case chain[last].Equal(root):
				chain = chain[:last]
			case kind == caMesh:
				return fmt.Errorf("verify node certificate: %w", ErrOtherCA)
			}
		}
		_, err := verifyNode(root, cluster, chain, time.Now())
		return err
	})
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return c, nil
}

// PersonKey returns the key of the person at the other end of a connection that AdminServerTLS
// checked. It is false before the handshake is complete, and when the other end is a node or nobody.
func PersonKey(cs tls.ConnectionState) (ed25519.PublicKey, bool) {
	if !cs.HandshakeComplete {
		return nil, false
	}
	key, err := personKey(cs.PeerCertificates)
	return key, err == nil
}

// personCertificate wraps a key in a certificate. It has no end, since it vouches for nothing: a
// key ends by being revoked.
func personCertificate(key ed25519.PrivateKey) (*tls.Certificate, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("key of %d bytes: want an Ed25519 key of %d", len(key), ed25519.PrivateKeySize)
	}
	pub := key.Public().(ed25519.PublicKey)
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: string(record.KeyIDOf(pub))},
		NotBefore:   time.Unix(0, 0),
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // "no well-defined end" (RFC 5280, section 4.1.2.5)
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	cert, err := sign(tmpl, tmpl, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// personKey reads a person's certificate. It refuses one with names, so that a person can't pass
// for a node: PeerClaims trusts any checked certificate that has an identity URI.
func personKey(certs []*x509.Certificate) (ed25519.PublicKey, error) {
	if len(certs) != 1 {
		return nil, fmt.Errorf("%d client certificates: a person has exactly one", len(certs))
	}
	cert := certs[0]
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("client certificate with an %s key: want an Ed25519 key", keyKind(cert.PublicKey))
	case len(cert.URIs)+len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0:
		return nil, errors.New("client certificate with names: this port is for people's keys, not for nodes")
	}
	if err := checkSize(cert.Raw); err != nil {
		return nil, err
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return nil, fmt.Errorf("client certificate not signed by its own key: %w", err)
	}
	return key, nil
}
