package record

import (
	"crypto/ed25519"
	"fmt"

	"github.com/perigee-edge/perigee"
)

const rowContext = "perigee row v1\x00"

// MaxRow bounds an encoded row.
const MaxRow = 1 << 20

// SignedRow is a node's statement about itself, with what a reader needs to check it. Rows are
// volatile: they travel, but are never written to disk.
type SignedRow struct {
	_         struct{} `cbor:",toarray"`
	Row       []byte   // deterministic CBOR of perigee.Row
	Chain     [][]byte // DER certificates of the node, leaf first, without the root
	Signature []byte   // Ed25519 by the leaf's key over "perigee row v1\x00" and Row
}

// SignRow encodes and signs a row.
func SignRow(key ed25519.PrivateKey, chain [][]byte, row perigee.Row) ([]byte, error) {
	body, err := encMode.Marshal(row)
	if err != nil {
		return nil, fmt.Errorf("encode row of %s: %w", row.Node, err)
	}
	if len(row.Revisions) > maxPairs {
		return nil, fmt.Errorf("encode row of %s: %d revisions, the limit is %d", row.Node, len(row.Revisions), maxPairs)
	}
	b, err := encMode.Marshal(SignedRow{Row: body, Chain: chain, Signature: ed25519.Sign(key, append([]byte(rowContext), body...))})
	if err != nil {
		return nil, fmt.Errorf("encode row of %s: %w", row.Node, err)
	}
	if len(b) > MaxRow {
		return nil, fmt.Errorf("encode row of %s: %d bytes, the limit is %d", row.Node, len(b), MaxRow)
	}
	return b, nil
}

// DecodeRow reads a signed row without checking its signature: the caller verifies Chain first and
// then calls VerifyRow with the leaf's key.
func DecodeRow(b []byte) (SignedRow, perigee.Row, error) {
	var s SignedRow
	var row perigee.Row
	if len(b) > MaxRow {
		return s, row, fmt.Errorf("decode row: %d bytes, the limit is %d", len(b), MaxRow)
	}
	if err := decMode.Unmarshal(b, &s); err != nil {
		return s, row, fmt.Errorf("decode row: %w", err)
	}
	if err := payloadMode.Unmarshal(s.Row, &row); err != nil {
		return s, row, fmt.Errorf("decode row: %w", err)
	}
	return s, row, nil
}

// VerifyRow reports whether pub signed the row.
func (s SignedRow) VerifyRow(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, append([]byte(rowContext), s.Row...), s.Signature) {
		return ErrSignature
	}
	return nil
}

// Marshal encodes any value of the cluster's control protocol in the same deterministic CBOR.
func Marshal(v any) ([]byte, error) { return encMode.Marshal(v) }

// Unmarshal decodes what Marshal wrote, within the limits of a payload.
func Unmarshal(b []byte, v any) error { return payloadMode.Unmarshal(b, v) }
