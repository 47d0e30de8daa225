package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
)

const maxWebNames = 100

// IssueWeb certifies the DNS names of a certificate request, whose key must be ECDSA P-256. The
// answer is PEM: the leaf, then the intermediate if a is one. Whether the cluster serves these
// names is for the caller to check. Wildcards and names of other types are refused.
func (a *Authority) IssueWeb(csr *x509.CertificateRequest, now time.Time) (pemChain []byte, err error) {
	if err := a.checkRequest(csr); err != nil {
		return nil, fmt.Errorf("issue web certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		DNSNames:              csr.DNSNames,
		NotBefore:             now.Add(-leafBackdate),
		NotAfter:              now.Add(WebLifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name := csr.DNSNames[0]; len(name) <= 64 { // the limit of RFC 5280 for a common name
		tmpl.Subject = pkix.Name{CommonName: name}
	}
	if err := a.clamp(tmpl, now); err != nil {
		return nil, fmt.Errorf("issue web certificate for %s: %w", csr.DNSNames[0], err)
	}
	leaf, err := sign(tmpl, a.Cert(), csr.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue web certificate for %s: %w", csr.DNSNames[0], err)
	}
	var out bytes.Buffer
	for _, der := range a.below(leaf) {
		out.Write(encodeCert(der))
	}
	return out.Bytes(), nil
}

func (a *Authority) checkRequest(csr *x509.CertificateRequest) error {
	if a.kind != caWeb {
		return fmt.Errorf("a %s can't: use the web CA", a.kind)
	}
	if k, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return fmt.Errorf("request with an %s key: want an ECDSA P-256 key", keyKind(csr.PublicKey))
	}
	if err := csr.CheckSignature(); err != nil {
		return fmt.Errorf("request not signed by its key: %w", err)
	}
	switch {
	case len(csr.IPAddresses)+len(csr.EmailAddresses)+len(csr.URIs) > 0:
		return errors.New("the request has IP addresses, mail addresses or URIs: only DNS names are certified")
	case len(csr.DNSNames) == 0:
		return errors.New("the request has no DNS name")
	case len(csr.DNSNames) > maxWebNames:
		return fmt.Errorf("the request has %d DNS names, the limit is %d", len(csr.DNSNames), maxWebNames)
	}
	for _, name := range csr.DNSNames {
		if err := perigee.CheckHost(name); err != nil {
			return err
		}
	}
	return nil
}
