package identity

import (
	"bytes"
	"crypto/x509"
	"slices"
	"testing"
	"time"
)

func TestVerifyNodeTimes(t *testing.T) {
	l := newLab(t)
	key := must(NewKey())(t)
	chain := l.issue(claimsFor("n1"), key, 0)
	for name, tc := range map[string]struct {
		at   time.Time
		want string // "" = good
	}{
		"now":               {l.now, ""},
		"5 minutes before":  {l.now.Add(-5 * time.Minute), ""},
		"11 minutes before": {l.now.Add(-11 * time.Minute), "check the clocks"},
		"29 days after":     {l.now.Add(29 * day), ""},
		"31 days after":     {l.now.Add(31 * day), "renews it when it starts"},
		"any time":          {time.Time{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			claims, leaf, err := VerifyNode(l.root.Cert(), l.cluster, chain, tc.at)
			switch {
			case tc.want != "":
				wantError(t, err, "node n1", tc.want)
			case err != nil:
				t.Error(err)
			case claims.ID != "n1" || !bytes.Equal(leaf.Raw, chain[0]):
				t.Errorf("claims %+v", claims)
			}
		})
	}
	old := l.issue(claimsFor("n2"), key, 200*day)
	if _, _, err := VerifyNode(l.root.Cert(), l.cluster, old, time.Time{}); err != nil {
		t.Errorf("a certificate of 200 days ago at any time: %v", err)
	}
	_, _, err := VerifyNode(l.root.Cert(), l.cluster, old, l.now)
	wantError(t, err, "certificate of \"n2\" is valid from")
}

// TestVerifyNodeRefuses runs every case twice: no kind of time may weaken the other checks.
func TestVerifyNodeRefuses(t *testing.T) {
	l, other := newLab(t), newLab(t)
	twin := newLabOf(t, l.cluster) // an impostor: same cluster name, own keys
	key := must(NewKey())(t)
	good := l.issue(claimsFor("n1"), key, 0)
	flip := func(cert []byte) []byte {
		b := slices.Clone(cert)
		b[len(b)-1] ^= 1 // the end of the signature
		return b
	}
	spoil := func(change func(*x509.Certificate)) [][]byte {
		tmpl := l.leafTemplate(l.uri("n1"))
		change(tmpl)
		return l.forge(tmpl, key.Public())
	}
	type testCase struct {
		root    *Authority
		cluster *lab
		chain   [][]byte
		want    string
	}
	cases := map[string]testCase{
		"empty":                 {l.root, l, nil, "chain of 0"},
		"long":                  {l.root, l, [][]byte{good[0], good[1], good[1], good[1]}, "chain of 4"},
		"with root":             {l.root, l, append(slices.Clone(good), l.root.Cert().Raw), "without the root"},
		"without intermediate":  {l.root, l, good[:1], "not signed by this cluster's CA"},
		"only intermediate":     {l.root, l, good[1:], "no identity URI"},
		"leaf twice":            {l.root, l, [][]byte{good[0], good[0]}, "may not sign others"},
		"wrong order":           {l.root, l, [][]byte{good[1], good[0]}, "no identity URI"},
		"garbage":               {l.root, l, [][]byte{[]byte("x")}, "read certificate"},
		"huge":                  {l.root, l, [][]byte{make([]byte, maxCert+1)}, "the limit is 4096"},
		"trailing bytes":        {l.root, l, [][]byte{append(slices.Clone(good[0]), 0), good[1]}, "read certificate"},
		"changed leaf":          {l.root, l, [][]byte{flip(good[0]), good[1]}, "not signed by this cluster's CA"},
		"changed intermediate":  {l.root, l, [][]byte{good[0], flip(good[1])}, "not signed by this cluster's CA"},
		"other cluster's node":  {l.root, l, other.issue(claimsFor("n1"), key, 0), "node n1 belongs to cluster " + string(other.cluster)},
		"other cluster's root":  {other.root, l, good, "root of cluster " + string(other.cluster)},
		"impostor's node":       {l.root, l, twin.issue(claimsFor("n1"), key, 0), "not signed by this cluster's CA"},
		"impostor's root":       {twin.root, l, good, "not signed by this cluster's CA"},
		"impostor's in between": {l.root, l, [][]byte{good[0], twin.signer.Cert().Raw}, "not signed by this cluster's CA"},
		"intermediate as root":  {l.signer, l, good[:1], "is not the root of a mesh"},
		"ECDSA key":             {l.root, l, l.forge(l.leafTemplate(l.uri("n1")), ecdsaKey(t).Public()), "ECDSA P-256 key: want an Ed25519 key"},
		"RSA key":               {l.root, l, l.forge(l.leafTemplate(l.uri("n1")), rsaKey(t).Public()), "RSA 2048 bit key: want an Ed25519 key"},
		"leaf that is a CA":     {l.root, l, spoil(func(c *x509.Certificate) { c.IsCA = true }), "for signing handshakes only"},
		"leaf that may sign":    {l.root, l, spoil(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "for signing handshakes only"},
		"no key usage":          {l.root, l, spoil(func(c *x509.Certificate) { c.KeyUsage = 0 }), "for signing handshakes only"},
		"client only":           {l.root, l, spoil(func(c *x509.Certificate) { c.ExtKeyUsage = nodeUsage[:1] }), "clients and servers both"},
		"server only":           {l.root, l, spoil(func(c *x509.Certificate) { c.ExtKeyUsage = nodeUsage[1:] }), "clients and servers both"},
		"no usage":              {l.root, l, spoil(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "clients and servers both"},
		"any usage":             {l.root, l, spoil(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "clients and servers both"},
		"a third usage": {l.root, l, spoil(func(c *x509.Certificate) {
			c.ExtKeyUsage = append(slices.Clone(nodeUsage), x509.ExtKeyUsageCodeSigning)
		}), "clients and servers both"},
		"web certificate's root": {must(NewWebRoot(l.cluster, l.now))(t), l, good, "is not the root of a mesh"},
	}

	// A node that signs a certificate for another.
	leaf := must(x509.ParseCertificate(good[0]))(t)
	second := must(sign(l.leafTemplate(l.uri("n2")), leaf, must(NewKey())(t).Public(), key))(t)
	cases["signed by a node"] = testCase{l.root, l, [][]byte{second.Raw, good[0]}, "may not sign others"}

	// An intermediate that made a CA, which made a node.
	sub := caTemplate(l.cluster, caIntermediate, l.now, IntermediateLifetime)
	subKey := must(NewKey())(t)
	subCert := must(sign(sub, l.signer.Cert(), subKey.Public(), l.signer.key))(t)
	below := must(sign(l.leafTemplate(l.uri("n1")), subCert, key.Public(), subKey))(t)
	cases["CA below the intermediate"] = testCase{l.root, l, [][]byte{below.Raw, subCert.Raw, l.signer.Cert().Raw}, "at most one intermediate"}
	cases["CA below, cut"] = testCase{l.root, l, [][]byte{below.Raw, subCert.Raw}, "not signed by this cluster's CA"}

	// A certificate to spare: signed by the root itself, with the intermediate beside it.
	direct := must(l.root.IssueNode(l.cluster, claimsFor("n1"), public(key), l.now))(t)
	cases["one to spare"] = testCase{l.root, l, [][]byte{direct[0], l.signer.Cert().Raw}, "do not belong to it"}

	// Intermediates that the root signed, but not for this.
	for name, change := range map[string]func(*x509.Certificate){
		"intermediate for servers only": func(c *x509.Certificate) { c.ExtKeyUsage = nodeUsage[1:] },
		"intermediate for clients only": func(c *x509.Certificate) { c.ExtKeyUsage = nodeUsage[:1] },
		"intermediate without the right": func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageDigitalSignature
		},
	} {
		tmpl := caTemplate(l.cluster, caIntermediate, l.now, IntermediateLifetime)
		change(tmpl)
		ca := must(sign(tmpl, l.root.Cert(), subKey.Public(), l.root.key))(t)
		leaf := must(sign(l.leafTemplate(l.uri("n1")), ca, key.Public(), subKey))(t)
		cases[name] = testCase{l.root, l, [][]byte{leaf.Raw, ca.Raw}, ""}
	}

	for name, tc := range cases {
		for kind, at := range map[string]time.Time{"now": l.now, "at any time": {}} {
			t.Run(name+" "+kind, func(t *testing.T) {
				claims, leaf, err := VerifyNode(tc.root.Cert(), tc.cluster.cluster, tc.chain, at)
				wantError(t, err, "verify node certificate", tc.want)
				if claims.ID != "" || leaf != nil {
					t.Error("a result beside the error")
				}
			})
		}
	}
	_, _, err := VerifyNode(nil, l.cluster, good, l.now)
	wantError(t, err, "no root certificate")
}

// TestLargestChainFits keeps the handshake inside quic-go's limit of 16 KiB for it.
func TestLargestChainFits(t *testing.T) {
	l := newLab(t)
	claims := claimsFor("n1")
	claims.Labels = map[string]string{}
	for c := 'a'; checkClaims(l.cluster, claims) == nil; c++ {
		claims.Labels[string(c)] = "%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%"
	}
	for k := range claims.Labels {
		delete(claims.Labels, k)
		break
	}
	key := must(NewKey())(t)
	chain := append(l.issue(claims, key, 0), l.root.Cert().Raw)
	total := 0
	for _, der := range chain {
		total += len(der)
	}
	t.Logf("%d labels, %d bytes", len(claims.Labels), total)
	if total < maxURI || total > 8<<10 {
		t.Errorf("the largest chain has %d bytes, want at most 8 KiB", total)
	}
}
