package edgeproxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
)

// maxChain bounds what a signer returns, in bytes.
const maxChain = 64 << 10

// IssuerKey names the cluster's web CA in the paths of the storage, so that certificates of another
// CA are not found.
func (c *certs) IssuerKey() string {
	if c.cfg.WebRoot == nil {
		return "cluster"
	}
	return fmt.Sprintf("cluster-%x", c.cfg.WebRoot.SubjectKeyId)
}

// Issue has a certificate request signed by the cluster. Failures are final for certmagic, which
// would try a renewal again for days; the next handshake does so too.
func (c *certs) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() // renewals in the background end with Run
	chain, err := c.cfg.SignWeb(ctx, csr.Raw)
	if err == nil {
		err = c.checkChain(chain, csr)
	}
	if err != nil {
		c.cfg.Metrics.certs.WithLabelValues("failed").Inc()
		return nil, certmagic.ErrNoRetry{Err: fmt.Errorf("have the certificate of %q signed: %w", csr.DNSNames, err)}
	}
	c.cfg.Metrics.certs.WithLabelValues("issued").Inc()
	c.log.Info("certificate issued", "host", csr.DNSNames[0], "dur", time.Since(began))
	return &certmagic.IssuedCertificate{Certificate: chain}, nil
}

// checkChain checks that a chain is what was asked for, so that nothing else is stored.
func (c *certs) checkChain(chain []byte, csr *x509.CertificateRequest) error {
	if len(chain) > maxChain {
		return fmt.Errorf("the chain has %d bytes, the limit is %d", len(chain), maxChain)
	}
	var all []*x509.Certificate
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return errors.New("the signer returned no certificate")
	}
	leaf := all[0]
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || !key.Equal(leaf.PublicKey) || !slices.Equal(leaf.DNSNames, csr.DNSNames) {
		return errors.New("the signer returned a certificate for another key or other names")
	}
	if c.cfg.WebRoot == nil {
		return nil
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	opts.Roots.AddCert(c.cfg.WebRoot)
	for _, cert := range all[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(opts)
	return err
}
