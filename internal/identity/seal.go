package identity

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/record"
)

// Sealing hides a text from all but some nodes, while everybody may carry it: the value of a secret, or
// a TLS key. An Envelope has the text, encrypted once by a content key that is used for nothing else
// (AES-256-GCM), and the content key, encrypted to each recipient (HPKE, RFC 9180: X25519, HKDF-SHA256,
// AES-256-GCM). Both are bound to a SealContext, so that an envelope can't be passed off as another's.
//
// A node's sealing key is derived from the key of its certificate, so that nothing more has to be kept.
// The public half is in the node's row, which that key signs: whoever passes a row on can't put another
// key into it.
//
// An encoded envelope is the deterministic CBOR of
//
//	[version uint, commitment bytes 32, text bytes, [[node text, key bytes 80] …]]
//
// The commitment is the BLAKE3 digest of "perigee content key v1\x00" and the content key: a key that
// somebody hands over later is the one the envelope was made with, or is refused.

// Limits of an envelope.
const (
	MaxSealed     = 64 << 10 // bytes of the text
	MaxRecipients = 512

	envelopeVersion = 1
	contentKeySize  = 32
	wrapSize        = 32 + contentKeySize + 16 // HPKE's encapsulated key, the content key, GCM's tag
	gcmOverhead     = 12 + 16
)

// ErrNotRecipient is returned to a node that an envelope is not sealed to.
var ErrNotRecipient = errors.New("not sealed to this node")

// SealContext says what a text is. All of it must be the same when the envelope is opened.
type SealContext struct {
	_       struct{} `cbor:",toarray"`
	Cluster perigee.ClusterID
	Kind    string // what sort of thing: "secret", "tls"
	Name    string // which one
	Version uint64 // and which of its values
}

// Recipient is a node that may open an envelope.
type Recipient struct {
	Node perigee.NodeID
	Key  []byte // of its row: what Node.SealingKey returns there
}

// Envelope is a sealed text. It is not changed after Seal or ParseEnvelope.
type Envelope struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Commitment perigee.Digest
	Text       []byte // nonce, ciphertext, tag
	Keys       []Wrap // sorted by node, none twice
}

// Wrap is the content key of an envelope, encrypted to one node.
type Wrap struct {
	_    struct{} `cbor:",toarray"`
	Node perigee.NodeID
	Key  []byte
}

// Seal encrypts a text to the recipients, at least one.
func Seal(text []byte, to []Recipient, c SealContext) (*Envelope, error) {
	switch {
	case len(text) > MaxSealed:
		return nil, fmt.Errorf("seal %s %s: %d bytes, the limit is %d", c.Kind, c.Name, len(text), MaxSealed)
	case len(to) == 0 || len(to) > MaxRecipients:
		return nil, fmt.Errorf("seal %s %s: %d recipients: want 1 to %d", c.Kind, c.Name, len(to), MaxRecipients)
	}
	key := make([]byte, contentKeySize)
	rand.Read(key)
	aead, bound, err := c.cipher(key)
	if err != nil {
		return nil, err
	}
	e := &Envelope{Version: envelopeVersion, Commitment: commit(key), Text: aead.Seal(nil, nil, text, bound)}
	for _, r := range to {
		w, err := wrap(key, r, c)
		if err != nil {
			return nil, err
		}
		e.Keys = append(e.Keys, w)
	}
	slices.SortFunc(e.Keys, compareWraps)
	for i := range e.Keys[1:] {
		if e.Keys[i].Node == e.Keys[i+1].Node {
			return nil, fmt.Errorf("seal %s %s: recipient %s is named twice", c.Kind, c.Name, e.Keys[i].Node)
		}
	}
	return e, nil
}

// cipher returns the cipher of a content key and the context as bytes.
func (c SealContext) cipher(key []byte) (cipher.AEAD, []byte, error) {
	bound, err := record.Marshal(c)
	if err != nil {
		return nil, nil, fmt.Errorf("seal %s %s: %w", c.Kind, c.Name, err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return aead, bound, err
}

// info binds a wrapped key to its context and to the node it is for.
func (c SealContext) info(node perigee.NodeID) ([]byte, error) {
	bound, err := record.Marshal(c)
	return append(append([]byte("perigee seal v1\x00"), node...), append([]byte{0}, bound...)...), err
}

func commit(key []byte) perigee.Digest {
	return digest.Sum(append([]byte("perigee content key v1\x00"), key...))
}

func wrap(key []byte, to Recipient, c SealContext) (Wrap, error) {
	public, err := sealKEM().NewPublicKey(to.Key)
	if err != nil {
		return Wrap{}, fmt.Errorf("seal %s %s to %s: its sealing key: %w", c.Kind, c.Name, to.Node, err)
	}
	info, err := c.info(to.Node)
	if err != nil {
		return Wrap{}, err
	}
	sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, key)
	if err != nil {
		return Wrap{}, fmt.Errorf("seal %s %s to %s: %w", c.Kind, c.Name, to.Node, err)
	}
	return Wrap{Node: to.Node, Key: sealed}, nil
}

func sealKEM() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

func compareWraps(a, b Wrap) int { return cmp.Compare(a.Node, b.Node) }

// Marshal encodes the envelope.
func (e *Envelope) Marshal() ([]byte, error) { return record.Marshal(e) }

// ParseEnvelope reads what Marshal wrote. It checks the form and bounds, and opens nothing.
func ParseEnvelope(b []byte) (*Envelope, error) {
	const most = MaxSealed + MaxRecipients*(wrapSize+80) + 256
	if len(b) > most {
		return nil, fmt.Errorf("read envelope: %d bytes, the limit is %d", len(b), most)
	}
	e := new(Envelope)
	if err := record.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	switch {
	case e.Version != envelopeVersion:
		return nil, fmt.Errorf("read envelope: format version %d, this release reads %d", e.Version, envelopeVersion)
	case len(e.Text) < gcmOverhead || len(e.Text) > MaxSealed+gcmOverhead:
		return nil, fmt.Errorf("read envelope: a text of %d bytes", len(e.Text))
	case len(e.Keys) == 0 || len(e.Keys) > MaxRecipients:
		return nil, fmt.Errorf("read envelope: %d recipients: want 1 to %d", len(e.Keys), MaxRecipients)
	}
	for i, w := range e.Keys {
		if err := perigee.CheckLabel(string(w.Node)); err != nil {
			return nil, fmt.Errorf("read envelope: recipient: %w", err)
		}
		if len(w.Key) != wrapSize || i > 0 && e.Keys[i-1].Node >= w.Node {
			return nil, fmt.Errorf("read envelope: recipient %s: a key of %d bytes, or out of order", w.Node, len(w.Key))
		}
	}
	return e, nil
}

// SealedTo reports whether the node is a recipient.
func (e *Envelope) SealedTo(id perigee.NodeID) bool {
	_, ok := slices.BinarySearchFunc(e.Keys, Wrap{Node: id}, compareWraps)
	return ok
}

// With returns the envelope with another recipient, whose wrap Node.Rewrap made.
func (e *Envelope) With(w Wrap) *Envelope {
	more := *e
	more.Keys = slices.DeleteFunc(slices.Clone(e.Keys), func(old Wrap) bool { return old.Node == w.Node })
	at, _ := slices.BinarySearchFunc(more.Keys, w, compareWraps)
	more.Keys = slices.Insert(more.Keys, at, w)
	return &more
}

// String says to how many it is sealed. It shows no bytes of the text.
func (e *Envelope) String() string { return fmt.Sprintf("envelope for %d nodes", len(e.Keys)) }

// SealingKey returns the public key to which others seal what this node may read.
func (n *Node) SealingKey() []byte {
	k, err := n.sealingKey()
	if err != nil {
		panic(err) // a fixed size is derived from a fixed size
	}
	return k.PublicKey().Bytes()
}

func (n *Node) sealingKey() (hpke.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, n.key.Seed(), nil, "perigee sealing key v1", 32)
	if err != nil {
		return nil, err
	}
	return sealKEM().DeriveKeyPair(seed)
}

// Unseal opens an envelope that is sealed to this node; for another the error is ErrNotRecipient.
func (n *Node) Unseal(e *Envelope, c SealContext) ([]byte, error) {
	key, err := n.contentKey(e, c)
	if err != nil {
		return nil, err
	}
	aead, bound, err := c.cipher(key)
	if err != nil {
		return nil, err
	}
	text, err := aead.Open(nil, nil, e.Text, bound)
	if err != nil {
		return nil, fmt.Errorf("open %s %s: it was changed, or is another's", c.Kind, c.Name)
	}
	return text, nil
}

// Rewrap encrypts the key of an envelope that this node can open to another. Whether that one may
// read the text is for the caller to know.
func (n *Node) Rewrap(e *Envelope, c SealContext, to Recipient) (Wrap, error) {
	key, err := n.contentKey(e, c)
	if err != nil {
		return Wrap{}, err
	}
	return wrap(key, to, c)
}

func (n *Node) contentKey(e *Envelope, c SealContext) ([]byte, error) {
	id := n.Claims().ID
	at, ok := slices.BinarySearchFunc(e.Keys, Wrap{Node: id}, compareWraps)
	if !ok {
		return nil, fmt.Errorf("open %s %s: %w", c.Kind, c.Name, ErrNotRecipient)
	}
	private, err := n.sealingKey()
	if err != nil {
		return nil, err
	}
	info, err := c.info(id)
	if err != nil {
		return nil, err
	}
	key, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, e.Keys[at].Key)
	if err != nil {
		return nil, fmt.Errorf("open %s %s: the key for %s does not open: it was changed, or is another's", c.Kind, c.Name, id)
	}
	if got := commit(key); subtle.ConstantTimeCompare(got[:], e.Commitment[:]) != 1 {
		return nil, fmt.Errorf("open %s %s: the key for %s is not the one it was sealed with", c.Kind, c.Name, id)
	}
	return key, nil
}
