package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func request(t *testing.T, key crypto.Signer, tmpl x509.CertificateRequest) *x509.CertificateRequest {
	t.Helper()
	der := must(x509.CreateCertificateRequest(rand.Reader, &tmpl, key))(t)
	return must(x509.ParseCertificateRequest(der))(t)
}

// TestWebCertificate lets Go's own client judge, with the web root as its only trust.
func TestWebCertificate(t *testing.T) {
	web := must(NewWebRoot(NewClusterID(), time.Now()))(t)
	key := ecdsaKey(t)
	long := strings.Repeat("a", 60) + ".example.com"
	chain := must(web.IssueWeb(request(t, key, x509.CertificateRequest{DNSNames: []string{long, "hello.localhost"}}), time.Now()))(t)
	block, rest := pem.Decode(chain)
	if len(rest) > 0 {
		t.Errorf("%d bytes after the leaf: a root issues no chain", len(rest))
	}
	leaf := must(x509.ParseCertificate(block.Bytes))(t)
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != WebLifetime+leafBackdate {
		t.Errorf("valid for %v", life)
	}
	roots := x509.NewCertPool()
	roots.AddCert(web.Cert())
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
	for name, good := range map[string]bool{long: true, "hello.localhost": true, "other.localhost": false} {
		r := handshake(t, &tls.Config{RootCAs: roots, ServerName: name}, server)
		if ok := r.clientErr == nil; ok != good {
			t.Errorf("%s: accepted %v, want %v: %v", name, ok, good, r.clientErr)
		}
	}
}

func TestIssueWebRefuses(t *testing.T) {
	l := newLab(t)
	web := must(NewWebRoot(l.cluster, l.now))(t)
	key := ecdsaKey(t)
	good := x509.CertificateRequest{DNSNames: []string{"a.example.com"}}
	forged := request(t, key, good)
	forged.DNSNames = nil
	forged.RawTBSCertificateRequest[len(forged.RawTBSCertificateRequest)-1] ^= 1
	for name, tc := range map[string]struct {
		ca   *Authority
		csr  *x509.CertificateRequest
		want string
	}{
		"mesh root":      {l.root, request(t, key, good), "use the web CA"},
		"intermediate":   {l.signer, request(t, key, good), "use the web CA"},
		"Ed25519":        {web, request(t, must(NewKey())(t), good), "request with an Ed25519 key"},
		"RSA":            {web, request(t, rsaKey(t), good), "request with an RSA 2048 bit key"},
		"no name":        {web, request(t, key, x509.CertificateRequest{}), "no DNS name"},
		"forged":         {web, forged, "not signed by its key"},
		"wildcard":       {web, request(t, key, x509.CertificateRequest{DNSNames: []string{"*.example.com"}}), `host name "*.example.com"`},
		"upper case":     {web, request(t, key, x509.CertificateRequest{DNSNames: []string{"A.example.com"}}), "host name"},
		"one bad of two": {web, request(t, key, x509.CertificateRequest{DNSNames: []string{"a.example.com", "b..c"}}), "host name"},
		"IP address": {web, request(t, key, x509.CertificateRequest{
			DNSNames: []string{"a"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}), "only DNS names"},
		"mail address": {web, request(t, key, x509.CertificateRequest{DNSNames: []string{"a"}, EmailAddresses: []string{"a@b.c"}}), "only DNS names"},
		"URI": {web, request(t, key, x509.CertificateRequest{
			DNSNames: []string{"a"}, URIs: []*url.URL{must(url.Parse(l.uri("n1")))(t)},
		}), "only DNS names"},
		"many names": {web, request(t, key, x509.CertificateRequest{
			DNSNames: strings.Split(strings.Repeat("a,", maxWebNames)+"a", ","),
		}), "101 DNS names, the limit is 100"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.ca.IssueWeb(tc.csr, l.now)
			wantError(t, err, "issue web certificate", tc.want)
		})
	}
	_, err := web.IssueWeb(request(t, key, good), l.now.Add(11*day365))
	wantError(t, err, "a.example.com", "web CA is valid from")
}
