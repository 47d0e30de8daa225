package identity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"crypto/ed25519"

	"github.com/perigee-edge/perigee"
)

var update = flag.Bool("update", false, "write the golden files anew")

var secretContext = SealContext{Cluster: "0123456789abcdef", Kind: "secret", Name: "shop/DB_URL", Version: 7}

func recipient(n *Node) Recipient { return Recipient{Node: n.Claims().ID, Key: n.SealingKey()} }

func TestSeal(t *testing.T) {
	l := newLab(t)
	a, b, c := l.node("a", 0), l.node("b", 0), l.node("c", 0)
	text := []byte("postgres://user:hunter2@db")
	sealed := must(Seal(text, []Recipient{recipient(b), recipient(a)}, secretContext))(t)
	raw := must(sealed.Marshal())(t)
	if bytes.Contains(raw, text[:8]) || strings.Contains(fmt.Sprintf("%v %s", sealed, sealed), "hunter2") {
		t.Error("the text shows")
	}
	e := must(ParseEnvelope(raw))(t)
	for _, n := range []*Node{a, b} {
		if got, err := n.Unseal(e, secretContext); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: %q, %v", n, got, err)
		}
	}
	if _, err := c.Unseal(e, secretContext); !errors.Is(err, ErrNotRecipient) {
		t.Errorf("a node that it is not sealed to: %v", err)
	}

	t.Run("every other context", func(t *testing.T) {
		for _, other := range []SealContext{
			{Cluster: "fedcba9876543210", Kind: "secret", Name: "shop/DB_URL", Version: 7},
			{Cluster: "0123456789abcdef", Kind: "tls", Name: "shop/DB_URL", Version: 7},
			{Cluster: "0123456789abcdef", Kind: "secret", Name: "shop/OTHER", Version: 7},
			{Cluster: "0123456789abcdef", Kind: "secret", Name: "shop/DB_URL", Version: 8},
		} {
			if got, err := a.Unseal(e, other); err == nil {
				t.Errorf("%+v opens it: %q", other, got)
			}
		}
	})
	t.Run("handed over", func(t *testing.T) {
		w := must(a.Rewrap(e, secretContext, recipient(c)))(t)
		more := must(ParseEnvelope(must(e.With(w).Marshal())(t)))(t)
		if got, err := c.Unseal(more, secretContext); err != nil || !bytes.Equal(got, text) {
			t.Errorf("after the handover: %q, %v", got, err)
		}
		if got, err := b.Unseal(more, secretContext); err != nil || !bytes.Equal(got, text) {
			t.Errorf("the others: %q, %v", got, err)
		}
		if e.SealedTo("c") || !more.SealedTo("c") {
			t.Error("SealedTo")
		}
		if _, err := c.Rewrap(e, secretContext, recipient(c)); !errors.Is(err, ErrNotRecipient) {
			t.Errorf("a node that can't open it hands it over: %v", err)
		}
		stolen := e.With(Wrap{Node: "c", Key: e.Keys[0].Key})
		if _, err := c.Unseal(stolen, secretContext); err == nil {
			t.Error("a key for another node opens")
		}
	})
	t.Run("a key of another text", func(t *testing.T) {
		other := must(Seal([]byte("evil"), []Recipient{recipient(a)}, secretContext))(t)
		mixed := *e
		mixed.Keys = other.Keys
		_, err := a.Unseal(&mixed, secretContext)
		wantError(t, err, "not the one it was sealed with")
		mixed.Text = other.Text
		if _, err := a.Unseal(&mixed, secretContext); err == nil {
			t.Error("the commitment is not looked at")
		}
	})
	t.Run("every changed bit", func(t *testing.T) {
		for i := range raw {
			spoilt := bytes.Clone(raw)
			spoilt[i] ^= 1 << (i % 8)
			e, err := ParseEnvelope(spoilt)
			if err != nil {
				continue
			}
			gotA, errA := a.Unseal(e, secretContext)
			gotB, errB := b.Unseal(e, secretContext)
			if errA == nil && !bytes.Equal(gotA, text) || errB == nil && !bytes.Equal(gotB, text) || errA == nil && errB == nil {
				t.Errorf("bit %d of byte %d: %q, %q", i%8, i, gotA, gotB)
			}
		}
	})
}

func TestSealLimits(t *testing.T) {
	l := newLab(t)
	a := recipient(l.node("a", 0))
	many := make([]Recipient, MaxRecipients+1)
	for i := range many {
		many[i] = Recipient{Node: perigee.NodeID(fmt.Sprintf("n%d", i)), Key: a.Key}
	}
	for name, f := range map[string]func() (*Envelope, error){
		"64 KiB":       func() (*Envelope, error) { return Seal(make([]byte, MaxSealed+1), []Recipient{a}, secretContext) },
		"0 recipients": func() (*Envelope, error) { return Seal(nil, nil, secretContext) },
		"many":         func() (*Envelope, error) { return Seal(nil, many, secretContext) },
		"named twice":  func() (*Envelope, error) { return Seal(nil, []Recipient{a, a}, secretContext) },
		"no key":       func() (*Envelope, error) { return Seal(nil, []Recipient{{Node: "x"}}, secretContext) },
		"the zero key": func() (*Envelope, error) {
			return Seal(nil, []Recipient{{Node: "x", Key: make([]byte, 32)}}, secretContext)
		},
		"not 32 bytes": func() (*Envelope, error) { return Seal(nil, []Recipient{{Node: "x", Key: a.Key[1:]}}, secretContext) },
	} {
		if e, err := f(); err == nil {
			t.Errorf("%s: %v, want an error", name, e)
		}
	}
	most := must(Seal(make([]byte, MaxSealed), many[:MaxRecipients], secretContext))(t)
	if _, err := ParseEnvelope(must(most.Marshal())(t)); err != nil {
		t.Errorf("the largest: %v", err)
	}
}

// TestSealGolden opens an envelope that was made once: what old releases sealed stays readable.
func TestSealGolden(t *testing.T) {
	const file = "testdata/envelope.hex"
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, ed25519.SeedSize))
	l := newLabOf(t, "0123456789abcdef")
	n := must(NewNode(l.cluster, l.root.Cert(), key, l.issue(claimsFor("fra-1"), key, 0)))(t)
	if *update {
		e := must(Seal([]byte("golden"), []Recipient{recipient(n), recipient(l.node("ams-1", 0))}, secretContext))(t)
		if err := os.WriteFile(file, []byte(hex.EncodeToString(must(e.Marshal())(t))+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const public = "185aff3930127c3e8b34a3d34224a0d52e212b9474a1fb44b717364943bf9658"
	if got := hex.EncodeToString(n.SealingKey()); got != public {
		t.Errorf("sealing key %s, want %s: nodes would lose what is sealed to them", got, public)
	}
	raw := must(hex.DecodeString(strings.TrimSpace(string(must(os.ReadFile(file))(t)))))(t)
	if got, err := n.Unseal(must(ParseEnvelope(raw))(t), secretContext); err != nil || string(got) != "golden" {
		t.Errorf("opened %q, %v", got, err)
	}
}

func FuzzParseEnvelope(f *testing.F) {
	raw, err := os.ReadFile("testdata/envelope.hex")
	if err != nil {
		f.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b)
		if err != nil {
			return
		}
		again, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseEnvelope(again); err != nil {
			t.Fatalf("what was read is not read again: %v", err)
		}
	})
}
