package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const pemKey = "PRIVATE KEY"

// SaveKey writes a key as PKCS#8 PEM to a new file of mode 0600, with the guarantees of SaveSecret.
func SaveKey(path string, key ed25519.PrivateKey) error {
	b, err := marshalKey(key)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return SaveSecret(path, b)
}

// LoadKey reads what SaveKey wrote. A file that others can read is refused.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	b, err := LoadSecret(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemKey || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("load %s: not a key file: want one PEM block %q", path, pemKey)
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load %s: %s key: want an Ed25519 key", path, keyKind(key.Public()))
	}
	return ed, nil
}

func marshalKey(key crypto.Signer) ([]byte, error) {
	if ed, ok := key.(ed25519.PrivateKey); ok && len(ed) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("Ed25519 key of %d bytes, want %d", len(ed), ed25519.PrivateKeySize)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("decode key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("decode key: it can't sign")
	}
	return signer, nil
}

func keyKind(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return "Ed25519"
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d bit", k.N.BitLen())
	}
	return fmt.Sprintf("%T", pub)
}
