package identity

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
)

const (
	uriScheme = "perigee"

	maxURI    = 2048 // bytes of the identity URI; keeps a chain well inside QUIC's 16 KiB for handshakes
	maxLabels = 16
	maxRoles  = 8
	maxValue  = 63 // bytes of a label's key, and of its value
)

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// ClaimsOf reads the cluster and the claims from a node certificate. It is strict: exactly one
// subject alternative name, a URI in the canonical form of the package comment. It says nothing
// about who signed the certificate; VerifyNode does.
func ClaimsOf(cert *x509.Certificate) (perigee.ClusterID, perigee.NodeClaims, error) {
	cluster, claims, err := claimsOf(cert)
	if err != nil {
		return "", perigee.NodeClaims{}, fmt.Errorf("read claims of certificate: %w", err)
	}
	return cluster, claims, nil
}

func claimsOf(cert *x509.Certificate) (perigee.ClusterID, perigee.NodeClaims, error) {
	var none perigee.NodeClaims
	switch {
	case len(cert.URIs) == 0:
		return "", none, errors.New("no identity URI: this is no node certificate")
	case len(cert.URIs) > 1:
		return "", none, fmt.Errorf("%d URIs: a node has exactly one", len(cert.URIs))
	case len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0:
		return "", none, errors.New("names beside the identity URI: a node has none")
	}
	cluster, claims, err := parseClaims(cert.URIs[0].String())
	if err != nil {
		return "", none, err
	}
	// crypto/x509 parsed the URI and drops name types it does not know, so compare the bytes.
	want, err := subjectAltName(encodeClaims(cluster, claims))
	if err != nil {
		return "", none, err
	}
	at := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if at < 0 || !bytes.Equal(cert.Extensions[at].Value, want) {
		return "", none, errors.New("identity URI not in canonical form")
	}
	return cluster, claims, nil
}

// subjectAltName encodes the extension that has one URI (RFC 5280, section 4.2.1.6).
func subjectAltName(uri string) ([]byte, error) {
	const tagURI = 6
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(uri)}})
}

// encodeClaims writes the canonical URI of claims that checkClaims accepts.
func encodeClaims(cluster perigee.ClusterID, c perigee.NodeClaims) string {
	q := url.Values{"region": {string(c.Region)}}
	if c.Zone != "" {
		q.Set("zone", c.Zone)
	}
	for k, v := range c.Labels {
		q.Add("label", k+"="+v)
	}
	for _, r := range c.Roles {
		q.Add("role", string(r))
	}
	slices.Sort(q["label"])
	slices.Sort(q["role"])
	u := url.URL{Scheme: uriScheme, Host: string(cluster), Path: "/node/" + string(c.ID), RawQuery: q.Encode()}
	return u.String()
}

// parseClaims reads an identity URI and refuses any form but that of encodeClaims.
func parseClaims(s string) (perigee.ClusterID, perigee.NodeClaims, error) {
	var c perigee.NodeClaims
	if len(s) > maxURI {
		return "", c, fmt.Errorf("identity URI of %d bytes, the limit is %d", len(s), maxURI)
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", c, fmt.Errorf("identity URI: %w", err)
	}
	id, ok := strings.CutPrefix(u.Path, "/node/")
	if u.Scheme != uriScheme || !ok {
		return "", c, fmt.Errorf("identity URI %.80q: want %s://<cluster>/node/<id>", s, uriScheme)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", c, fmt.Errorf("identity URI: %w", err)
	}
	cluster := perigee.ClusterID(u.Host)
	c.ID = perigee.NodeID(id)
	if err := fillClaims(&c, q); err != nil {
		return "", perigee.NodeClaims{}, fmt.Errorf("identity URI: %w", err)
	}
	if err := checkClaims(cluster, c); err != nil {
		return "", perigee.NodeClaims{}, fmt.Errorf("identity URI: %w", err)
	}
	if encodeClaims(cluster, c) != s {
		return "", perigee.NodeClaims{}, errors.New("identity URI not in canonical form")
	}
	return cluster, c, nil
}

func fillClaims(c *perigee.NodeClaims, q url.Values) error {
	for _, key := range slices.Sorted(maps.Keys(q)) {
		values := q[key]
		switch key {
		case "region":
			c.Region = perigee.Region(values[0])
		case "zone":
			c.Zone = values[0]
		case "role":
			for _, v := range values {
				c.Roles = append(c.Roles, perigee.Role(v))
			}
			continue
		case "label":
			c.Labels = make(map[string]string, len(values))
			for _, v := range values {
				k, val, _ := strings.Cut(v, "=")
				if _, twice := c.Labels[k]; twice {
					return fmt.Errorf("label %.80q twice", k)
				}
				c.Labels[k] = val
			}
			continue
		default:
			return fmt.Errorf("unknown claim %.40q: upgrade this node if a newer one issued the certificate", key)
		}
		if len(values) > 1 {
			return fmt.Errorf("claim %q %d times", key, len(values))
		}
	}
	return nil
}

// checkClaims reports which rule the claims break.
func checkClaims(cluster perigee.ClusterID, c perigee.NodeClaims) error {
	if err := checkCluster(cluster); err != nil {
		return err
	}
	if err := perigee.CheckLabel(string(c.ID)); err != nil {
		return fmt.Errorf("node name: %w", err)
	}
	if err := perigee.CheckLabel(string(c.Region)); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	if c.Zone != "" {
		if err := perigee.CheckLabel(c.Zone); err != nil {
			return fmt.Errorf("zone: %w", err)
		}
	}
	if err := checkRoles(c.Roles); err != nil {
		return err
	}
	if err := checkLabels(c.Labels); err != nil {
		return err
	}
	if n := len(encodeClaims(cluster, c)); n > maxURI {
		return fmt.Errorf("the claims take %d bytes, the limit is %d: use fewer or shorter labels", n, maxURI)
	}
	return nil
}

func checkRoles(roles []perigee.Role) error {
	if len(roles) > maxRoles {
		return fmt.Errorf("%d roles, the limit is %d", len(roles), maxRoles)
	}
	for i, r := range roles {
		if err := perigee.CheckLabel(string(r)); err != nil {
			return fmt.Errorf("role: %w", err)
		}
		if slices.Contains(roles[:i], r) {
			return fmt.Errorf("role %q twice", r)
		}
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%d labels, the limit is %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > maxValue || strings.Trim(k, labelKeyChars) != "" {
			return fmt.Errorf("label key %.80q: use 1 to %d of a-z, A-Z, 0-9, '-', '_', '.' and '/'", k, maxValue)
		}
		if v == "" || len(v) > maxValue || strings.ContainsFunc(v, notPrintable) {
			return fmt.Errorf("value of label %q: %.80q: use 1 to %d printable ASCII characters without spaces", k, v, maxValue)
		}
	}
	return nil
}

const labelKeyChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./"

func notPrintable(r rune) bool { return r <= ' ' || r > '~' }
