package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/perigee-edge/perigee/internal/digest"
)

// ExporterLabel is the label of the TLS exporter (RFC 8446, section 7.5) that JoinProof signs.
const ExporterLabel = "EXPORTER-perigee-join"

const (
	exporterSize = 32
	proofContext = "perigee join v1\x00"
)

// JoinServerTLS returns the configuration for accepting machines and people that have a token but
// no certificate yet. The chain includes the root as its last element.
func (n *Node) JoinServerTLS(alpn string) *tls.Config {
	c := n.serverTLS([]string{alpn}, func(c *credential) *tls.Certificate { return c.withRoot })
	c.VerifyConnection = func(cs tls.ConnectionState) error { return checkProtocol(cs, []string{alpn}) }
	return c
}

// JoinClientTLS returns the configuration for dialling a cluster whose root is not known yet. The
// server must be a node whose chain is consistent up to the root it presents; which root that may
// be is for check to say. check may be nil only when the caller judges PeerRoot before it sends
// anything of value or believes anything it hears.
func JoinClientTLS(alpn string, check func(root *x509.Certificate) error) *tls.Config {
	return clientTLS(alpn, func(cs tls.ConnectionState) error {
		root, err := verifyWithRoot(cs.PeerCertificates)
		if err != nil || check == nil {
			return err
		}
		if err := check(root); err != nil {
			return fmt.Errorf("refuse %s: %w", root.Subject.CommonName, err)
		}
		return nil
	})
}

// PeerRoot returns the root that the server of a JoinClientTLS connection presented.
func PeerRoot(cs tls.ConnectionState) (*x509.Certificate, bool) {
	last := len(cs.PeerCertificates) - 1
	if !cs.HandshakeComplete || last < 1 {
		return nil, false
	}
	root := cs.PeerCertificates[last]
	_, kind, err := parseCAName(root)
	return root, err == nil && kind == caMesh
}

func verifyWithRoot(certs []*x509.Certificate) (*x509.Certificate, error) {
	last := len(certs) - 1
	if last < 1 || last >= maxChain {
		return nil, fmt.Errorf("verify node certificate: chain of %d certificates: want the leaf, at most one intermediate, and the root", len(certs))
	}
	root := certs[last]
	cluster, _, err := parseCAName(root)
	if err == nil {
		err = checkRoot(root, cluster)
	}
	if err != nil {
		return nil, fmt.Errorf("verify node certificate: %w", err)
	}
	_, err = verifyNode(root, cluster, certs[:last], time.Now())
	return root, err
}

// JoinProof signs the body of a request with the key of a token or a node, bound to the connection
// that carries it. The handshake must be complete.
func JoinProof(key ed25519.PrivateKey, cs tls.ConnectionState, body []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("make join proof: key of %d bytes: want an Ed25519 key of %d", len(key), ed25519.PrivateKeySize)
	}
	msg, err := proofMessage(cs, body)
	if err != nil {
		return nil, fmt.Errorf("make join proof: %w", err)
	}
	return ed25519.Sign(key, msg), nil
}

// CheckJoinProof reports why proof is not what JoinProof made at the other end of this connection,
// with the private half of pub, for this body.
func CheckJoinProof(pub ed25519.PublicKey, cs tls.ConnectionState, body, proof []byte) error {
	msg, err := proofMessage(cs, body)
	if err != nil {
		return fmt.Errorf("check join proof: %w", err)
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, msg, proof) {
		return errors.New("check join proof: it does not fit the key, this connection and the request")
	}
	return nil
}

func proofMessage(cs tls.ConnectionState, body []byte) ([]byte, error) {
	if !cs.HandshakeComplete || cs.Version != tls.VersionTLS13 {
		return nil, errors.New("no complete TLS 1.3 handshake")
	}
	secret, err := cs.ExportKeyingMaterial(ExporterLabel, nil, exporterSize)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	sum := digest.Sum(body)
	return append(append([]byte(proofContext), secret...), sum[:]...), nil
}
