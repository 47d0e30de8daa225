package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

const testCluster = "0123456789abcdef"

var labTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// golden pins the canonical form: certificates in the field are compared with it.
var golden = []struct {
	uri    string
	claims perigee.NodeClaims
}{
	{"perigee://0123456789abcdef/node/fra-1?region=fra", perigee.NodeClaims{ID: "fra-1", Region: "fra"}},
	{
		"perigee://0123456789abcdef/node/n1?label=a-b%3Dx%2Fy%3Dz&label=a%3D1&label=gpu%3Da100%2C%25%26%2B&region=syd&role=signer&role=witness&zone=b",
		perigee.NodeClaims{
			ID: "n1", Region: "syd", Zone: "b", Labels: map[string]string{"gpu": "a100,%&+", "a": "1", "a-b": "x/y=z"},
			Roles: []perigee.Role{"signer", "witness"},
		},
	},
}

func TestCanonicalForm(t *testing.T) {
	for _, g := range golden {
		backwards := g.claims
		backwards.Roles = slices.Clone(g.claims.Roles)
		slices.Reverse(backwards.Roles)
		for range 20 { // the order of a map changes
			if got := encodeClaims(testCluster, backwards); got != g.uri {
				t.Fatalf("encoded\n%s, want\n%s", got, g.uri)
			}
		}
		cluster, claims, err := parseClaims(g.uri)
		if err != nil || cluster != testCluster || !reflect.DeepEqual(claims, g.claims) {
			t.Errorf("read %s %+v, %v; want %+v", cluster, claims, err, g.claims)
		}
	}
}

func TestParseClaimsRefuses(t *testing.T) {
	const p = "perigee://0123456789abcdef/node/n1"
	for name, tc := range map[string]struct{ uri, want string }{
		"empty":              {"", "want perigee://"},
		"other scheme":       {"spiffe://0123456789abcdef/node/n1?region=fra", "want perigee://"},
		"scheme upper case":  {"PERIGEE://0123456789abcdef/node/n1?region=fra", "canonical"},
		"no cluster":         {"perigee:///node/n1?region=fra", "cluster name"},
		"cluster upper case": {"perigee://0123456789ABCDEF/node/n1?region=fra", "cluster name"},
		"port":               {"perigee://0123456789abcdef:1/node/n1?region=fra", "cluster name"},
		"user":               {"perigee://u@0123456789abcdef/node/n1?region=fra", "canonical"},
		"no node":            {"perigee://0123456789abcdef/node/?region=fra", "node name"},
		"other path":         {"perigee://0123456789abcdef/person/n1?region=fra", "want perigee://"},
		"long path":          {p + "/x?region=fra", "node name"},
		"escaped name":       {"perigee://0123456789abcdef/node/%6e1?region=fra", "canonical"},
		"no region":          {p, "region: the name is empty"},
		"bare question mark": {p + "?", "region: the name is empty"},
		"empty region":       {p + "?region=", "region: the name is empty"},
		"two regions":        {p + "?region=fra&region=syd", `claim "region" 2 times`},
		"two zones":          {p + "?region=fra&zone=a&zone=b", `claim "zone" 2 times`},
		"empty zone":         {p + "?region=fra&zone=", "canonical"},
		"unknown claim":      {p + "?admin=1&region=fra", `unknown claim "admin"`},
		"claim upper case":   {p + "?Region=fra", `unknown claim "Region"`},
		"unsorted":           {p + "?zone=a&region=fra", "canonical"},
		"unsorted roles":     {p + "?region=fra&role=b&role=a", "canonical"},
		"role twice":         {p + "?region=fra&role=a&role=a", `role "a" twice`},
		"empty role":         {p + "?region=fra&role=", "role: the name is empty"},
		"label without =":    {p + "?label=a&region=fra", `value of label "a"`},
		"label twice":        {p + "?label=a%3D1&label=a%3D2&region=fra", `label "a" twice`},
		"escaped needlessly": {p + "?region=%66ra", "canonical"},
		"escape lower case":  {p + "?label=a%3d1&region=fra", "canonical"},
		"unescaped =":        {p + "?label=a=1&region=fra", "canonical"},
		"semicolon":          {p + "?region=fra;zone=a", "identity URI"},
		"bad escape":         {p + "?region=%zz", "identity URI"},
		"fragment":           {p + "?region=fra#x", "canonical"},
		"empty pair":         {p + "?region=fra&", "canonical"},
		"control character":  {p + "?region=fra\n", "identity URI"},
		"too long":           {p + "?region=fra&zone=" + strings.Repeat("a", maxURI), "the limit is 2048"},
	} {
		t.Run(name, func(t *testing.T) {
			_, claims, err := parseClaims(tc.uri)
			wantError(t, err, tc.want)
			if claims.ID != "" || claims.Region != "" {
				t.Errorf("claims %+v beside an error", claims)
			}
		})
	}
}

func TestClaimsOfRefuses(t *testing.T) {
	l := newLab(t)
	good := l.uri("n1")
	rawSAN := func(names ...asn1.RawValue) *x509.Certificate {
		tmpl := l.leafTemplate(good)
		tmpl.URIs = nil
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: must(asn1.Marshal(names))(t)}}
		return tmpl
	}
	uriName := func(s string) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)}
	}
	registered := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 0x03}}
	with := func(change func(*x509.Certificate)) *x509.Certificate {
		tmpl := l.leafTemplate(good)
		change(tmpl)
		return tmpl
	}
	for name, tc := range map[string]struct {
		tmpl *x509.Certificate
		want string
	}{
		"no name at all": {with(func(c *x509.Certificate) { c.URIs = nil }), "this is no node certificate"},
		"only a DNS name": {with(func(c *x509.Certificate) {
			c.URIs, c.DNSNames = nil, []string{"n1"}
		}), "this is no node certificate"},
		"two URIs":            {with(func(c *x509.Certificate) { c.URIs = append(c.URIs, must(url.Parse(l.uri("n2")))(t)) }), "2 URIs"},
		"the same URI twice":  {with(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), "2 URIs"},
		"a DNS name too":      {with(func(c *x509.Certificate) { c.DNSNames = []string{"x"} }), "names beside"},
		"a mail address too":  {with(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.c"} }), "names beside"},
		"an IP address too":   {with(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(1, 2, 3, 4)} }), "names beside"},
		"a name of rare type": {rawSAN(uriName(good), registered), "canonical"},
		"empty fragment":      {rawSAN(uriName(good + "#")), "canonical"},
		"other claims":        {l.leafTemplate(good + "&x=1"), "unknown claim"},
	} {
		t.Run(name, func(t *testing.T) {
			chain := l.forge(tc.tmpl, must(NewKey())(t).Public())
			cert := must(x509.ParseCertificate(chain[0]))(t)
			_, _, err := ClaimsOf(cert)
			wantError(t, err, "read claims of certificate", tc.want)
			_, _, err = VerifyNode(l.root.Cert(), l.cluster, chain, l.now)
			wantError(t, err, "verify node certificate", tc.want)
		})
	}
	chain := l.forge(rawSAN(uriName(good)), must(NewKey())(t).Public())
	if cluster, claims, err := ClaimsOf(must(x509.ParseCertificate(chain[0]))(t)); err != nil || cluster != l.cluster || claims.ID != "n1" {
		t.Errorf("the good form, made by hand: %s %+v, %v", cluster, claims, err)
	}
}

func FuzzParseClaims(f *testing.F) {
	for _, g := range golden {
		f.Add(g.uri)
	}
	f.Add("perigee://0123456789abcdef/node/n1?label=a%3D1&label=b%3D2&region=fra&role=signer&zone=z")
	f.Fuzz(func(t *testing.T, s string) {
		cluster, claims, err := parseClaims(s)
		if err != nil {
			return
		}
		if got := encodeClaims(cluster, claims); got != s {
			t.Errorf("accepted %q, whose claims encode as %q", s, got)
		}
		if err := checkClaims(cluster, claims); err != nil {
			t.Errorf("accepted %q, which breaks a rule: %v", s, err)
		}
	})
}

func FuzzClaimsOf(f *testing.F) {
	cluster := NewClusterID()
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	for _, g := range golden {
		root, err := NewRoot(cluster, labTime)
		if err != nil {
			f.Fatal(err)
		}
		chain, err := root.IssueNode(cluster, g.claims, public(key), labTime)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(chain[0])
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		cluster, claims, err := ClaimsOf(cert)
		if err != nil {
			return
		}
		want := must(subjectAltName(encodeClaims(cluster, claims)))(t)
		for _, e := range cert.Extensions {
			if e.Id.Equal(oidSubjectAltName) && string(e.Value) != string(want) {
				t.Errorf("accepted names %x, whose claims encode as %x", e.Value, want)
			}
		}
	})
}
