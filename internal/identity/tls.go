package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// PeerServerTLS returns the configuration for accepting connections from nodes of this cluster.
// Clients must offer one of the alpn protocols and present a valid node certificate. Then allow,
// if not nil, is asked; its error refuses the connection (revocation). It is asked before the
// client has proved that it has the key, so it must judge the claims and not act on them.
func (n *Node) PeerServerTLS(alpn []string, allow func(perigee.NodeClaims) error) *tls.Config {
	c := n.serverTLS(alpn, func(c *credential) *tls.Certificate { return c.plain })
	c.ClientAuth = tls.RequireAnyClientCert // verified below: identity is a URI, not a host name
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := checkProtocol(cs, alpn); err != nil {
			return err
		}
		return n.checkPeer(cs.PeerCertificates, "", allow)
	}
	return c
}

// PeerClientTLS returns the configuration for dialling a node of this cluster: the node want, or
// any node if want is empty. allow is as in PeerServerTLS.
func (n *Node) PeerClientTLS(alpn string, want perigee.NodeID, allow func(perigee.NodeClaims) error) *tls.Config {
	c := clientTLS(alpn, func(cs tls.ConnectionState) error { return n.checkPeer(cs.PeerCertificates, want, allow) })
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return n.current.Load().plain, nil
	}
	return c
}

func (n *Node) checkPeer(certs []*x509.Certificate, want perigee.NodeID, allow func(perigee.NodeClaims) error) error {
	claims, err := verifyNode(n.root, n.cluster, certs, time.Now())
	if err != nil {
		return err
	}
	if want != "" && claims.ID != want {
		return fmt.Errorf("dial node %s: node %s answered at its address", want, claims.ID)
	}
	if allow == nil {
		return nil
	}
	if err := allow(claims); err != nil {
		return fmt.Errorf("refuse node %s: %w", claims.ID, err)
	}
	return nil
}

// PeerClaims returns the claims of the node at the other end of a connection that one of this
// package's configurations checked. It is false before the handshake is complete, and when the
// other end is a person or nobody.
func PeerClaims(cs tls.ConnectionState) (perigee.NodeClaims, bool) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return perigee.NodeClaims{}, false
	}
	_, claims, err := claimsOf(cs.PeerCertificates[0])
	return claims, err == nil
}

// serverTLS is what all servers share; pick chooses which chain clients see.
func (n *Node) serverTLS(alpn []string, pick func(*credential) *tls.Certificate) *tls.Config {
	c := baseTLS(alpn)
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return pick(n.current.Load()), nil
	}
	return c
}

// clientTLS is what all clients share. Go's own verification is off because it wants a host name
// and the system's roots; check does all of it, on every connection.
func clientTLS(alpn string, check func(tls.ConnectionState) error) *tls.Config {
	c := baseTLS([]string{alpn})
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := checkProtocol(cs, []string{alpn}); err != nil {
			return err
		}
		return check(cs)
	}
	return c
}

// baseTLS allows TLS 1.3 only. There are no session tickets: a resumed session could outlive the
// certificate or the trust it was made with.
func baseTLS(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             slices.Clone(alpn),
		SessionTicketsDisabled: true,
	}
}

// checkProtocol refuses what crypto/tls lets pass: a client or server that names no protocol.
func checkProtocol(cs tls.ConnectionState, alpn []string) error {
	switch {
	case cs.Version != tls.VersionTLS13:
		return fmt.Errorf("TLS version %s, want TLS 1.3", tls.VersionName(cs.Version))
	case cs.DidResume:
		return errors.New("resumed TLS session, which this cluster does not have")
	case !slices.Contains(alpn, cs.NegotiatedProtocol):
		return fmt.Errorf("application protocol %.40q, want %q", cs.NegotiatedProtocol, alpn)
	}
	return nil
}
