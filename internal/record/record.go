// Package record is the one codec of the cluster's desired state: the envelope in which people and
// nodes sign what they ask for, and the payloads it may carry. It knows how a record looks and
// whether its signature fits a key; who may write what, and what the records together mean, is
// package gossip's business. It does no I/O and starts no goroutine.
//
// # Wire and disk format, version 1
//
// A record is one CBOR array (RFC 8949, core deterministic encoding, section 4.2.1), at most
// MaxSize bytes, with no trailing bytes:
//
//	[version uint, cluster text, epoch uint, kind text, key text, hlc uint,
//	 parents [bytes 32…], payload bytes, signature bytes 64]
//
// The payload is the deterministic CBOR of the kind's type, a map with text keys. Unknown keys of a
// payload are kept (the bytes travel whole) and not understood. The signature is Ed25519
// (RFC 8032) over the ASCII text "perigee record v1\x00" and the CBOR array of the first eight
// elements. The record's identity is the BLAKE3 digest of all of its bytes. A record whose bytes
// are not the deterministic encoding of what they say is refused, so that one meaning has one
// identity.
package record

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// Version is the format that this release writes, and the only one it reads.
const Version = 1

// MaxSize bounds an encoded record, so that reading one has a bounded cost.
const MaxSize = 256 << 10

const (
	signContext = "perigee record v1\x00"
	maxParents  = 64
	maxPairs    = 64 << 10 // of a map; a row has a pair per revision that its node holds
)

// Record is one signed statement. It is not changed after Sign or Decode.
type Record struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Cluster   perigee.ClusterID
	Epoch     uint32 // from 1; rises when a cluster is restored from a backup
	Kind      Kind
	Key       perigee.KeyID // of the signer
	HLC       HLC
	Parents   []perigee.Digest // pointer records that this one replaces
	Payload   []byte
	Signature []byte
}

type unsigned struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Cluster perigee.ClusterID
	Epoch   uint32
	Kind    Kind
	Key     perigee.KeyID
	HLC     HLC
	Parents []perigee.Digest
	Payload []byte
}

// ErrSignature is returned by Verify when the signature does not fit.
var ErrSignature = errors.New("signature does not fit the record")

// Sign makes a record of the payload, in the present epoch of a cluster, and returns it with its encoding.
// The payload's type decides the kind.
func Sign(key ed25519.PrivateKey, cluster perigee.ClusterID, epoch uint32, hlc HLC, parents []perigee.Digest, payload Payload) (*Record, []byte, error) {
	if len(parents) > maxParents {
		return nil, nil, fmt.Errorf("encode %s record: %d parents, the limit is %d: replace some of them first", payload.kind(), len(parents), maxParents)
	}
	body, err := encMode.Marshal(payload)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s record: %w", payload.kind(), err)
	}
	if parents == nil {
		parents = []perigee.Digest{}
	}
	r := &Record{
		Version: Version, Cluster: cluster, Epoch: epoch, Kind: payload.kind(), HLC: hlc,
		Key: KeyIDOf(key.Public().(ed25519.PublicKey)), Parents: parents, Payload: body,
	}
	msg, err := r.signed()
	if err != nil {
		return nil, nil, err
	}
	r.Signature = ed25519.Sign(key, msg)
	b, err := encMode.Marshal(r)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s record: %w", r.Kind, err)
	}
	if len(b) > MaxSize {
		return nil, nil, fmt.Errorf("encode %s record: %d bytes, the limit is %d: make the manifest smaller", r.Kind, len(b), MaxSize)
	}
	return r, b, nil
}

// Decode reads one record. It checks the form, not the signature.
func Decode(b []byte) (*Record, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("decode record: %d bytes, the limit is %d", len(b), MaxSize)
	}
	if v, ok := versionOf(b); ok && v != Version {
		return nil, fmt.Errorf("decode record: format version %d, this release reads %d: upgrade this node", v, Version)
	}
	var r Record
	if err := decMode.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	switch {
	case r.Version != Version:
		return nil, fmt.Errorf("decode record: format version %d, this release reads %d: upgrade this node", r.Version, Version)
	case r.Parents == nil || r.Payload == nil:
		return nil, errors.New("decode record: null in the place of parents or payload") // would be a second encoding of none
	case len(r.Parents) > maxParents:
		return nil, fmt.Errorf("decode record: %d parents, the limit is %d", len(r.Parents), maxParents)
	case len(r.Signature) != ed25519.SignatureSize:
		return nil, fmt.Errorf("decode record: signature of %d bytes, want %d", len(r.Signature), ed25519.SignatureSize)
	}
	again, err := encMode.Marshal(&r)
	if err != nil || !bytes.Equal(again, b) {
		return nil, errors.New("decode record: not in deterministic encoding")
	}
	return &r, nil
}

// versionOf returns the format version, which is the first element of the array in every format, so
// that a record of a later format is named as such, whatever follows.
func versionOf(b []byte) (v byte, ok bool) {
	const array, direct = 4, 24 // CBOR's major type, and the first value that is not in the head itself
	if len(b) < 2 || b[0]>>5 != array || b[1] >= direct {
		return 0, false
	}
	return b[1], true
}

// Verify reports whether pub made the signature.
func (r *Record) Verify(pub ed25519.PublicKey) error {
	msg, err := r.signed()
	if err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize || KeyIDOf(pub) != r.Key || !ed25519.Verify(pub, msg, r.Signature) {
		return ErrSignature
	}
	return nil
}

// Open decodes the payload.
func (r *Record) Open() (Payload, error) {
	p := r.Kind.zero()
	if p == nil {
		return nil, fmt.Errorf("open record: unknown kind %.40q", r.Kind)
	}
	if err := payloadMode.Unmarshal(r.Payload, p); err != nil {
		return nil, fmt.Errorf("open %s record: %w", r.Kind, err)
	}
	return p, nil
}

func (r *Record) signed() ([]byte, error) {
	b, err := encMode.Marshal(unsigned{
		Version: r.Version, Cluster: r.Cluster, Epoch: r.Epoch, Kind: r.Kind, Key: r.Key, HLC: r.HLC, Parents: r.Parents, Payload: r.Payload,
	})
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", r.Kind, err)
	}
	return append([]byte(signContext), b...), nil
}

// ID returns the identity of an encoded record.
func ID(encoded []byte) perigee.Digest { return digest.Sum(encoded) }

// KeyIDOf returns the short name of a public key.
func KeyIDOf(pub ed25519.PublicKey) perigee.KeyID {
	d := digest.Sum(pub)
	return perigee.KeyID("k" + hex.EncodeToString(d[:8]))
}

var (
	encMode     = must(cbor.CoreDetEncOptions().EncMode())
	decMode     = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 8, MaxArrayElements: 128, MaxMapPairs: 128, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.DecMode())
	payloadMode = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 16, MaxArrayElements: 4096, MaxMapPairs: maxPairs, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // options are constants
	}
	return v
}
