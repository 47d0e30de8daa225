package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestLifetimes(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cluster := NewClusterID()
	root := must(NewRoot(cluster, now))(t)
	web := must(NewWebRoot(cluster, now))(t)
	signer := must(root.NewIntermediate(now))(t)
	key := must(NewKey())(t)
	_, leaf, err := VerifyNode(root.Cert(), cluster, must(signer.IssueNode(cluster, claimsFor("n1"), public(key), now))(t), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		cert     *x509.Certificate
		backdate time.Duration
		years    int
		days     int
	}{
		{"root", root.Cert(), time.Hour, 10, 0},
		{"web root", web.Cert(), time.Hour, 10, 0},
		{"intermediate", signer.Cert(), time.Hour, 5, 0},
		{"leaf", leaf, 10 * time.Minute, 0, 30},
	} {
		if got := now.Sub(tc.cert.NotBefore); got != tc.backdate {
			t.Errorf("%s begins %v before it is made, want %v", tc.name, got, tc.backdate)
		}
		end := now.AddDate(tc.years, 0, tc.days)
		if off := tc.cert.NotAfter.Sub(end).Abs(); off > 24*time.Hour {
			t.Errorf("%s ends %v, want %v within a day", tc.name, tc.cert.NotAfter, end)
		}
	}
}

func TestClusterIDs(t *testing.T) {
	a, b := NewClusterID(), NewClusterID()
	if a == b || checkCluster(a) != nil || checkCluster(b) != nil {
		t.Errorf("NewClusterID returned %q and %q", a, b)
	}
	for _, bad := range []perigee.ClusterID{"", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "0123456789abcdeg", " 123456789abcdef"} {
		wantError(t, checkCluster(bad), "16 hexadecimal digits")
		if _, err := NewRoot(bad, time.Now()); err == nil {
			t.Errorf("NewRoot accepts cluster %q", bad)
		}
	}
}

func TestAuthorityNames(t *testing.T) {
	l := newLabOf(t, "0123456789abcdef")
	web := must(NewWebRoot(l.cluster, l.now))(t)
	for want, a := range map[string]*Authority{
		"Perigee 0123456789abcdef mesh CA":              l.root,
		"Perigee 0123456789abcdef mesh intermediate CA": l.signer,
		"Perigee 0123456789abcdef web CA":               web,
	} {
		if got := a.Cert().Subject.CommonName; got != want {
			t.Errorf("name %q, want %q", got, want)
		}
		if a.Cluster() != l.cluster {
			t.Errorf("%s: cluster %s", want, a.Cluster())
		}
	}
}

func TestIssuedChain(t *testing.T) {
	l := newLab(t)
	key := must(NewKey())(t)
	want := perigee.NodeClaims{ID: "fra-1", Region: "fra", Zone: "b", Labels: map[string]string{"gpu": "a100", "rack": "12/b=c"}, Roles: []perigee.Role{perigee.RoleSigner}}
	for name, tc := range map[string]struct {
		ca     *Authority
		length int
	}{"intermediate": {l.signer, 2}, "root": {l.root, 1}} {
		chain := must(tc.ca.IssueNode(l.cluster, want, public(key), l.now))(t)
		if len(chain) != tc.length {
			t.Errorf("%s: chain of %d, want %d", name, len(chain), tc.length)
		}
		got, leaf, err := VerifyNode(l.root.Cert(), l.cluster, chain, l.now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !sameClaims(got, want) {
			t.Errorf("%s: claims %+v, want %+v", name, got, want)
		}
		if !public(key).Equal(leaf.PublicKey) || leaf.SignatureAlgorithm != x509.PureEd25519 {
			t.Errorf("%s: leaf has another key or no Ed25519 signature", name)
		}
	}
}

func sameClaims(a, b perigee.NodeClaims) bool {
	return a.ID == b.ID && encodeClaims("0123456789abcdef", a) == encodeClaims("0123456789abcdef", b)
}

func TestLeafStaysInsideItsIssuer(t *testing.T) {
	l := newLab(t)
	key := must(NewKey())(t)
	ca := l.signer.Cert()
	for name, at := range map[string]time.Time{
		"at the issuer's start": ca.NotBefore.Add(time.Second), "near the issuer's end": ca.NotAfter.Add(-time.Hour),
	} {
		chain := must(l.signer.IssueNode(l.cluster, claimsFor("n1"), public(key), at))(t)
		_, leaf, err := VerifyNode(l.root.Cert(), l.cluster, chain, time.Time{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if leaf.NotBefore.Before(ca.NotBefore) || leaf.NotAfter.After(ca.NotAfter) {
			t.Errorf("%s: leaf from %v to %v, issuer from %v to %v", name, leaf.NotBefore, leaf.NotAfter, ca.NotBefore, ca.NotAfter)
		}
	}
	for _, at := range []time.Time{ca.NotBefore.Add(-time.Second), ca.NotAfter.Add(time.Second)} {
		_, err := l.signer.IssueNode(l.cluster, claimsFor("n1"), public(key), at)
		wantError(t, err, "n1", "mesh intermediate CA is valid from", "clock")
	}
	_, err := l.root.NewIntermediate(l.root.Cert().NotAfter.Add(time.Hour))
	wantError(t, err, "make intermediate CA", "mesh CA is valid from")
	inter := must(l.root.NewIntermediate(l.root.Cert().NotAfter.Add(-time.Hour)))(t)
	if inter.Cert().NotAfter.After(l.root.Cert().NotAfter) {
		t.Error("the intermediate outlives the root")
	}
}

func TestIssueNodeRefuses(t *testing.T) {
	l := newLab(t)
	web := must(NewWebRoot(l.cluster, l.now))(t)
	pub := public(must(NewKey())(t))
	good := claimsFor("n1")
	long := map[string]string{}
	for c := 'a'; c < 'a'+maxLabels; c++ {
		long[strings.Repeat(string(c), maxValue)] = strings.Repeat("%", maxValue)
	}
	many := map[string]string{}
	for c := 'a'; c <= 'a'+maxLabels; c++ {
		many[string(c)] = "1"
	}
	for name, tc := range map[string]struct {
		ca      *Authority
		cluster perigee.ClusterID
		claims  perigee.NodeClaims
		pub     ed25519.PublicKey
		want    string
	}{
		"web CA":          {web, l.cluster, good, pub, "use the CA of the mesh"},
		"other cluster":   {l.signer, "0123456789abcdef", good, pub, `for cluster "0123456789abcdef"`},
		"short key":       {l.signer, l.cluster, good, pub[:31], "want an Ed25519 key of 32"},
		"no key":          {l.signer, l.cluster, good, nil, "public key of 0 bytes"},
		"key of CA":       {l.signer, l.cluster, good, l.signer.Cert().PublicKey.(ed25519.PublicKey), "that of a CA"},
		"key of root":     {l.signer, l.cluster, good, l.root.Cert().PublicKey.(ed25519.PublicKey), "that of a CA"},
		"no name":         {l.signer, l.cluster, perigee.NodeClaims{Region: "fra"}, pub, "node name: the name is empty"},
		"bad name":        {l.signer, l.cluster, perigee.NodeClaims{ID: "a/../b", Region: "fra"}, pub, "node name"},
		"no region":       {l.signer, l.cluster, perigee.NodeClaims{ID: "n1"}, pub, "region: the name is empty"},
		"bad zone":        {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Zone: "A"}, pub, "zone"},
		"bad role":        {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Roles: []perigee.Role{"a b"}}, pub, "role"},
		"role twice":      {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Roles: []perigee.Role{"a", "a"}}, pub, `role "a" twice`},
		"many roles":      {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Roles: make([]perigee.Role, maxRoles+1)}, pub, "9 roles, the limit is 8"},
		"many labels":     {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: many}, pub, "17 labels, the limit is 16"},
		"label key":       {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"a=b": "c"}}, pub, "label key"},
		"empty label key": {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"": "c"}}, pub, "label key"},
		"long label key":  {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{strings.Repeat("a", 64): "c"}}, pub, "label key"},
		"empty value":     {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"a": ""}}, pub, `value of label "a"`},
		"value space":     {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"a": "b c"}}, pub, `value of label "a"`},
		"value no ASCII":  {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"a": "ü"}}, pub, `value of label "a"`},
		"value no UTF-8":  {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"a": "\xff"}}, pub, `value of label "a"`},
		"long value":      {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: map[string]string{"a": strings.Repeat("b", 64)}}, pub, `value of label "a"`},
		"long in all":     {l.signer, l.cluster, perigee.NodeClaims{ID: "n1", Region: "fra", Labels: long}, pub, "use fewer or shorter labels"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.ca.IssueNode(tc.cluster, tc.claims, tc.pub, l.now)
			wantError(t, err, "issue node certificate", tc.want)
		})
	}
}

func TestOnlyMeshRootsMakeIntermediates(t *testing.T) {
	l := newLab(t)
	web := must(NewWebRoot(l.cluster, l.now))(t)
	for _, a := range []*Authority{l.signer, web} {
		_, err := a.NewIntermediate(l.now)
		wantError(t, err, "only the root of the mesh can")
	}
	if c := l.signer.Cert(); !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || !slices.Equal(c.ExtKeyUsage, nodeUsage) {
		t.Errorf("intermediate: CA %v, path length %d, usages %v", c.IsCA, c.MaxPathLen, c.ExtKeyUsage)
	}
	if c := web.Cert(); c.MaxPathLen != 0 || !c.MaxPathLenZero {
		t.Errorf("web root: path length %d", c.MaxPathLen)
	}
}

func TestAuthorityRoundTrip(t *testing.T) {
	l := newLab(t)
	web := must(NewWebRoot(l.cluster, l.now))(t)
	key := must(NewKey())(t)
	for _, a := range []*Authority{l.root, l.signer, web} {
		b := must(a.Marshal())(t)
		got := must(ParseAuthority(b))(t)
		if again := must(got.Marshal())(t); !bytes.Equal(again, b) {
			t.Errorf("%v: other bytes after a round trip", a)
		}
		if got.Cluster() != l.cluster || !got.Cert().Equal(a.Cert()) {
			t.Errorf("%v became %v", a, got)
		}
		if a == web {
			continue
		}
		chain := must(got.IssueNode(l.cluster, claimsFor("n1"), public(key), l.now))(t)
		if _, _, err := VerifyNode(l.root.Cert(), l.cluster, chain, l.now); err != nil {
			t.Errorf("%v, stored and read: %v", a, err)
		}
	}
	crlf := bytes.ReplaceAll(must(l.signer.Marshal())(t), []byte("\n"), []byte("\r\n"))
	if _, err := ParseAuthority(crlf); err != nil {
		t.Errorf("with the line ends of Windows: %v", err)
	}
}

func TestParseAuthorityRefuses(t *testing.T) {
	l, other := newLab(t), newLab(t)
	certOf := func(a *Authority) string { return string(encodeCert(a.Cert().Raw)) }
	keyOf := func(a *Authority) string { return string(must(marshalKey(a.key))(t)) }
	twin := newLabOf(t, l.cluster) // same names, other keys
	nodeKey := must(NewKey())(t)
	leaf := string(encodeCert(l.issue(claimsFor("n1"), nodeKey, 0)[0]))
	plain := *l.root.Cert()
	plain.IsCA, plain.MaxPathLen = false, 0
	noCA := string(encodeCert(must(sign(&plain, &plain, l.root.key.Public(), l.root.key))(t).Raw))
	ec := ecdsaKey(t)
	meshTmpl, webTmpl := caTemplate(l.cluster, caMesh, l.now, day), caTemplate(l.cluster, caWeb, l.now, day)
	wrongAlg := string(encodeCert(must(sign(meshTmpl, meshTmpl, ec.Public(), ec))(t).Raw))
	wrongWeb := string(encodeCert(must(sign(webTmpl, webTmpl, nodeKey.Public(), nodeKey))(t).Raw))
	for name, tc := range map[string]struct{ text, want string }{
		"empty":                    {"", "cut short"},
		"foreign text":             {"hello\n", "cut short"},
		"certificate only":         {certOf(l.root), "cut short"},
		"cut in the key":           {certOf(l.root) + keyOf(l.root)[:60], "cut short"},
		"key only":                 {keyOf(l.root), "a key without a certificate"},
		"other key":                {certOf(l.root) + keyOf(twin.root), "the key is not that of"},
		"two keys":                 {certOf(l.root) + keyOf(l.root) + keyOf(l.root), "data after the key"},
		"text after":               {certOf(l.root) + keyOf(l.root) + "x", "data after the key"},
		"three certificates":       {certOf(l.signer) + certOf(l.root) + certOf(l.root) + keyOf(l.signer), "unexpected PEM block"},
		"other block":              {"-----BEGIN X-----\n-----END X-----\n" + certOf(l.root) + keyOf(l.root), `unexpected PEM block "X"`},
		"intermediate alone":       {certOf(l.signer) + keyOf(l.signer), "without its root"},
		"root of another cluster":  {certOf(l.signer) + certOf(other.root) + keyOf(l.signer), "not signed by the root beside it"},
		"root of the same name":    {certOf(l.signer) + certOf(twin.root) + keyOf(l.signer), "not signed by the root beside it"},
		"root and another":         {certOf(l.root) + certOf(other.root) + keyOf(l.root), "another certificate follows"},
		"node certificate":         {leaf + string(must(marshalKey(nodeKey))(t)), "is no CA of a cluster"},
		"root that is no CA":       {noCA + keyOf(l.root), "may not sign others"},
		"mesh root with ECDSA key": {wrongAlg + string(must(marshalKey(ec))(t)), "want an Ed25519 key"},
		"web root with Ed25519":    {wrongWeb + string(must(marshalKey(nodeKey))(t)), "want an ECDSA P-256 key"},
		"garbage certificate":      {string(encodeCert([]byte("x"))) + keyOf(l.root), "read certificate"},
		"huge certificate":         {string(encodeCert(make([]byte, maxCert+1))) + keyOf(l.root), "the limit is 4096"},
		"garbage key":              {certOf(l.root) + string(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: []byte("x")})), "decode key"},
		"huge":                     {strings.Repeat("x", maxSecret+1), "the limit is 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseAuthority([]byte(tc.text))
			wantError(t, err, "read CA", tc.want)
		})
	}
}

func FuzzParseAuthority(f *testing.F) {
	now := time.Now()
	root, err := NewRoot(NewClusterID(), now)
	if err != nil {
		f.Fatal(err)
	}
	signer, err := root.NewIntermediate(now)
	if err != nil {
		f.Fatal(err)
	}
	for _, a := range []*Authority{root, signer} {
		b, err := a.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAuthority(b)
		if err != nil {
			return
		}
		if _, err := ParseAuthority(must(a.Marshal())(t)); err != nil {
			t.Errorf("what was accepted is refused after a round trip: %v", err)
		}
	})
}
