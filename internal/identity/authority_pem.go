package identity

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	pemCert = "CERTIFICATE"

	maxCACerts = 2 // an intermediate and its root
)

// Marshal encodes the CA with its key, to store it (see SaveSecret) or to hand it to another
// signer: PEM of the certificates, own one first and the root last, then the PKCS#8 key.
func (a *Authority) Marshal() ([]byte, error) {
	key, err := marshalKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", a, err)
	}
	var out bytes.Buffer
	for _, cert := range a.chain {
		out.Write(encodeCert(cert.Raw))
	}
	out.Write(key)
	return out.Bytes(), nil
}

// ParseAuthority reads what Marshal wrote and checks that the parts fit: the key is that of the
// first certificate, each is signed by the next, the last by itself. Times are not checked, so an
// expired CA can still be looked at; it can't issue.
func ParseAuthority(b []byte) (*Authority, error) {
	a, err := parseAuthority(b)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	return a, nil
}

func parseAuthority(b []byte) (*Authority, error) {
	if len(b) > maxSecret {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(b), maxSecret)
	}
	a := &Authority{}
	for a.key == nil {
		block, rest := pem.Decode(b)
		switch {
		case block == nil:
			return nil, fmt.Errorf("no PEM block %q at the end: the file is cut short, or is no CA", pemKey)
		case block.Type == pemKey:
			key, err := parseKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			a.key = key
		case block.Type == pemCert && len(a.chain) < maxCACerts:
			cert, err := parseCert(block.Bytes)
			if err != nil {
				return nil, err
			}
			a.chain = append(a.chain, cert)
		default:
			return nil, fmt.Errorf("unexpected PEM block %.40q: want 1 or 2 of %q and one %q", block.Type, pemCert, pemKey)
		}
		b = rest
	}
	if len(bytes.TrimSpace(b)) > 0 {
		return nil, errors.New("data after the key")
	}
	return a, a.check()
}

// check reports why the parts of a do not fit together, and fills in what they say.
func (a *Authority) check() (err error) {
	if len(a.chain) == 0 {
		return fmt.Errorf("a key without a certificate: want a PEM block %q before it", pemCert)
	}
	if a.cluster, a.kind, err = parseCAName(a.Cert()); err != nil {
		return err
	}
	pub, ok := a.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(a.Cert().PublicKey) {
		return fmt.Errorf("the key is not that of %s", a)
	}
	root := a.chain[len(a.chain)-1]
	if a.kind == caIntermediate {
		if len(a.chain) != 2 {
			return fmt.Errorf("%s without its root", a)
		}
		if err := checkMeshCA(a.Cert()); err != nil {
			return err
		}
		if err := a.Cert().CheckSignatureFrom(root); err != nil {
			return fmt.Errorf("%s is not signed by the root beside it: %w", a, err)
		}
		return checkRoot(root, a.cluster)
	}
	if len(a.chain) != 1 {
		return fmt.Errorf("%s is a root, but another certificate follows", a)
	}
	if a.kind == caMesh {
		return checkRoot(root, a.cluster)
	}
	return checkWebRoot(root)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})
}
