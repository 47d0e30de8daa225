package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	tokenPrefix  = "pgt1_"
	tokenVersion = 1

	maxTokenLine  = 8 << 10 // bytes
	maxTokenAddrs = 16
	tokenHead     = 2 + 32 + 32
)

// tokenKinds are the kinds by their code, which starts at 1.
var tokenKinds = []record.TokenKind{record.TokenNode, record.TokenDeploy, record.TokenOperator}

// Token is an invitation: with it a machine becomes a node, or a person gets a key. It holds a
// secret, so printing, logging or encoding one as text shows only what it is for; Line returns the
// line to hand over.
type Token struct {
	Kind    record.TokenKind
	Genesis perigee.Digest // of the genesis record: which cluster is the right one
	Seed    [32]byte       // the secret: an Ed25519 seed, see Key
	Signer  perigee.NodeID // the node that redeems it
	Addrs   []string       // where to find the cluster: "host:port", at least one, best first
}

// NewToken makes a token with a new secret.
func NewToken(kind record.TokenKind, genesis perigee.Digest, signer perigee.NodeID, addrs []string) (Token, error) {
	t := Token{Kind: kind, Genesis: genesis, Signer: signer, Addrs: slices.Clone(addrs)}
	rand.Read(t.Seed[:]) // never fails: crypto/rand ends the program instead
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return t, nil
}

// check reports which rule the token breaks. Line encodes every token that breaks none.
func (t Token) check() error {
	if !slices.Contains(tokenKinds, t.Kind) {
		return fmt.Errorf("kind %.40q: want one of %q", t.Kind, tokenKinds)
	}
	if t.Genesis.IsZero() {
		return errors.New("it names no cluster")
	}
	if err := perigee.CheckLabel(string(t.Signer)); err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	if len(t.Addrs) == 0 || len(t.Addrs) > maxTokenAddrs {
		return fmt.Errorf("%d addresses: want 1 to %d", len(t.Addrs), maxTokenAddrs)
	}
	for _, a := range t.Addrs {
		if err := checkAddr(a); err != nil {
			return fmt.Errorf("address %.80q: %w", a, err)
		}
	}
	return nil
}

// checkAddr accepts what another machine can dial.
func checkAddr(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want host:port")
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 || strconv.FormatUint(p, 10) != port {
		return errors.New("want a port from 1 to 65535")
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return perigee.CheckHost(host)
	}
	if ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return errors.New("others can't dial it: want the address they reach this node at")
	}
	return nil
}

// Line returns the secret line, to be shown once to the person who asked for it. It panics if the
// fields are not such that NewToken or ParseToken could have made them.
func (t Token) Line() string {
	if err := t.check(); err != nil {
		panic("identity: line of an invalid token: " + err.Error())
	}
	b := []byte{tokenVersion, byte(slices.Index(tokenKinds, t.Kind) + 1)}
	b = append(append(b, t.Genesis[:]...), t.Seed[:]...)
	b = appendText(b, string(t.Signer))
	b = append(b, byte(len(t.Addrs)))
	for _, a := range t.Addrs {
		b = appendText(b, a)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func appendText(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// Key returns the key that the token's bearer signs with.
func (t Token) Key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(t.Seed[:]) }

// ID returns the name under which the cluster knows the token.
func (t Token) ID() perigee.KeyID { return record.KeyIDOf(t.Key().Public().(ed25519.PublicKey)) }

// String says what the token is for. It does not show the secret.
func (t Token) String() string {
	return fmt.Sprintf("%s token %s, redeemed at %s", t.Kind, t.ID(), t.Signer)
}

// Format writes String for every verb, so that no verb shows the secret.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue returns String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns String, so that JSON does not show the secret either.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

var (
	errNoToken    = errors.New("read token: this is no token: one starts with \"pgt\"; perigee token create prints it")
	errMangled    = errors.New("read token: it is truncated or changed: copy the whole line again")
	errNewerToken = errors.New("read token: a newer release made it: upgrade perigee on this machine")
)

// ParseToken reads a line, with or without space around it. Its errors tell a text that is no
// token from one that was damaged on the way and from one of a newer release. They do not repeat
// the text, which may be secret.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, tokenPrefix) {
		return Token{}, foreignToken(s)
	}
	if len(s) > maxTokenLine || strings.ContainsAny(s, "\r\n") { // base64 skips line ends
		return Token{}, errMangled
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s[len(tokenPrefix):])
	if err != nil || len(b) < tokenHead+4 {
		return Token{}, errMangled
	}
	b, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.ChecksumIEEE(b) != sum {
		return Token{}, errMangled
	}
	if b[0] != tokenVersion || int(b[1]) > len(tokenKinds) {
		return Token{}, errNewerToken
	}
	if b[1] == 0 {
		return Token{}, errMangled
	}
	t := Token{Kind: tokenKinds[b[1]-1], Genesis: perigee.Digest(b[2:34]), Seed: [32]byte(b[34:tokenHead])}
	if !t.readTail(b[tokenHead:]) || t.check() != nil {
		return Token{}, errMangled
	}
	return t, nil
}

// readTail reads the signer and the addresses, and reports whether that used up b.
func (t *Token) readTail(b []byte) bool {
	signer, b, ok := cutText(b)
	if !ok || len(b) == 0 {
		return false
	}
	t.Signer = perigee.NodeID(signer)
	count, b := int(b[0]), b[1:]
	for range count {
		var addr string
		if addr, b, ok = cutText(b); !ok {
			return false
		}
		t.Addrs = append(t.Addrs, addr)
	}
	return len(b) == 0
}

func cutText(b []byte) (s string, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

// foreignToken tells a token with another number in its prefix from other text.
func foreignToken(s string) error {
	rest, ok := strings.CutPrefix(s, "pgt")
	number, _, found := strings.Cut(rest, "_")
	if n, err := strconv.ParseUint(number, 10, 16); ok && found && err == nil && n > tokenVersion {
		return errNewerToken
	}
	if ok && strings.HasPrefix(tokenPrefix, s) {
		return errMangled
	}
	return errNoToken
}
