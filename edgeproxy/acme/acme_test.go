package acme_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/edgeproxy/acme/acmetest"
)

// newClient makes a client of a CA with an account there.
func newClient(t *testing.T, ca *acmetest.CA, edits ...func(*acme.Config)) (*acme.Client, *acme.Account) {
	t.Helper()
	cfg := acme.Config{Directory: ca.Directory(), Email: "ops@shop.example", Logger: slog.New(slog.DiscardHandler)}
	for _, edit := range edits {
		edit(&cfg)
	}
	c, err := acme.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Register(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c, a
}

// TestOrder answers a CA's question while it asks, and not any more once it has its answer. Where one way to prove a host
// fails, the other does.
func TestOrder(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	var c *acme.Client
	var asked []string
	ca.Ask = func(name, kind, token string) error {
		asked = append(asked, kind)
		i := slices.IndexFunc(c.Challenges(name), func(ch acme.Challenge) bool { return ch.Type == kind && ch.Token == token })
		if i < 0 || !strings.HasPrefix(c.Challenges(name)[i].KeyProof, token+".") {
			return fmt.Errorf("%s is not answered: %v", token, c.Challenges(name))
		}
		if len(asked) == 1 {
			return errors.New("this way is closed")
		}
		return nil
	}
	c, a := newClient(t, ca)
	cert, err := c.Order(t.Context(), a, "a.shop.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Parse("a.shop.example"); err != nil {
		t.Error(err)
	}
	if len(asked) != 2 || asked[0] == asked[1] {
		t.Errorf("the CA asked by %v, want two ways", asked)
	}
	if left := c.Challenges("a.shop.example"); left != nil {
		t.Errorf("open after the order: %v", left)
	}
}

// TestOrderOfOtherKey takes no certificate that does not belong to the key made for it.
func TestOrderOfOtherKey(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.Key = func(any) any { return &other.PublicKey }
	c, a := newClient(t, ca)
	if _, err := c.Order(t.Context(), a, "a.shop.example", nil); err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("a certificate for another key: %v", err)
	}
}

// TestChangeKey gives an account another key: once is enough, the one before is good no more, and who knows neither can't.
func TestChangeKey(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	c, a := newClient(t, ca)
	next, err := a.WithNext()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second as if nobody had heard of the first
		changed, err := c.ChangeKey(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		if changed.URL != a.URL || !bytes.Equal(changed.Key, next.Next) || changed.Next != nil || changed.CA.Directory != ca.Directory() {
			t.Errorf("changed to %+v", changed)
		}
		if _, err := c.Order(t.Context(), changed, "a.shop.example", nil); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Order(t.Context(), a, "a.shop.example", nil); !acme.Refused(err) {
		t.Errorf("an order with the key before: %v", err)
	}
	other, err := a.WithNext()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ChangeKey(t.Context(), other); !errors.Is(err, acme.ErrAccountLost) {
		t.Errorf("to a third key with the first: %v", err)
	}
	if n := ca.Accounts(); n != 1 {
		t.Errorf("%d accounts, want 1", n)
	}
}

// TestWildcard proves a domain by an update of its zone, signed by a key (RFC 2136, RFC 8945), and leaves nothing there. With another
// key there is no certificate.
func TestWildcard(t *testing.T) {
	t.Parallel()
	zone := acmetest.NewZone(t, "shop.example", "127.0.0.1:0", net.IPv4(127, 0, 0, 1))
	ca := acmetest.NewCA(t)
	ca.Types = []string{"dns-01"}
	ca.Ask = func(name, _, _ string) error {
		r, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("_acme-challenge."+name+".", dns.TypeTXT), zone.Addr)
		if err == nil && len(r.Answer) == 0 {
			err = errors.New("no such record")
		}
		return err
	}
	key := strings.Split(zone.Key, ":")
	with := func(secret string) func(*acme.Config) {
		return func(cfg *acme.Config) {
			cfg.DNS = &acme.DNS{Server: zone.Addr, KeyName: key[0], Algorithm: key[1], Key: secret, Resolvers: []string{zone.Addr}}
		}
	}
	c, a := newClient(t, ca, with(key[2]))
	cert, err := c.Order(t.Context(), a, "*.shop.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Parse("a.shop.example"); err != nil {
		t.Error(err)
	}
	if taken, refused, left := zone.Updates(); taken != 2 || refused != 0 || left != 0 {
		t.Errorf("%d updates taken, %d refused, %d records left, want 2, 0, 0", taken, refused, left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, a = newClient(t, ca, with("b3RoZXIgc2VjcmV0"))
	if _, err := c.Order(ctx, a, "*.shop.example", nil); err == nil || !strings.Contains(err.Error(), "adding temporary record") {
		t.Errorf("with another key: %v", err)
	}
	if taken, refused, left := zone.Updates(); taken != 2 || refused == 0 || left != 0 {
		t.Errorf("%d updates taken, %d refused, %d records left, want 2, some, 0", taken, refused, left)
	}
}
