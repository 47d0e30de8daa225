package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/edgeproxy/acme/acmetest"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// certified runs a node of a cluster with a public name, and of those named others, that know a CA and order from it.
func certified(t *testing.T, ca *acmetest.CA, others ...perigee.Region) (s *single, rest []*Node) {
	t.Helper()
	dir := Dir(filepath.Join(t.TempDir(), "data"))
	founded, err := Found(FoundConfig{Dir: dir, Region: "fra", Domain: "shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	s = &single{t: t, dir: dir, operator: founded.Operator}
	cfg := singleConfig(t, dir)
	cfg.ACME = acme.Config{Directory: ca.Directory()}
	if s.Node, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	s.run()
	for _, region := range others {
		spec := node(region)
		spec.Roles = []perigee.Role{perigee.RoleIssuer}
		join := joiner(t, s.token(spec))
		if _, err := Join(t.Context(), join); err != nil {
			t.Fatal(err)
		}
		cfg := singleConfig(t, join.Dir)
		cfg.Socket = join.Socket
		n, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		runNode(t, n)
		rest = append(rest, n)
	}
	wait(t, 20*time.Second, "all know each other", func() bool {
		return !slices.ContainsFunc(append(rest, s.Node), func(n *Node) bool { return len(issuers(n.View())) != len(others)+1 })
	})
	return s, rest
}

func certificateOf(host string) perigee.WebName {
	return perigee.WebName{Item: perigee.WebCertificate, Name: host}
}

// shared waits for a certificate that comes after a version and is in the hands of these nodes, and of no others.
func (s *single) shared(host string, after uint64, holders ...perigee.NodeID) (*perigee.WebEntry, *x509.Certificate) {
	s.t.Helper()
	var e *perigee.WebEntry
	var leaf *x509.Certificate
	wait(s.t, 30*time.Second, host+" has a certificate", func() bool {
		e = s.View().Desired.Web[certificateOf(host)]
		open := (*s.webCerts.open.Load())[certificateOf(host)]
		if e == nil || e.Version <= after || open == nil || open.entry.Version != e.Version || open.cert == nil {
			return false
		}
		leaf = open.cert.Leaf
		return true
	})
	env, err := identity.ParseEnvelope(e.Sealed)
	if err != nil {
		s.t.Fatal(err)
	}
	var got []perigee.NodeID
	for _, w := range env.Keys {
		got = append(got, w.Node)
	}
	if slices.Sort(got); !slices.Equal(got, holders) {
		s.t.Errorf("the key of %s is sealed to %v, want %v", host, got, holders)
	}
	return e, leaf
}

// hostOf returns a name of a function whose host an issuer is responsible for, while all are up.
func (s *single) hostOf(id perigee.NodeID) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("h%d", i); s.issuer.responsible(s.View(), name+".shop.example") == id {
			return name
		}
	}
}

// TestOneOrderForAll: of two issuers one orders; the other answers the CA's question meanwhile, begins nothing of its own, and serves
// what comes of it. A key goes only where the host's TLS may end.
func TestOneOrderForAll(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	asks, answered := make(chan string, orderDaily), make(chan struct{})
	ca.Ask = func(name, _, token string) error {
		if name == "open.shop.example" {
			asks <- token
			<-answered
		}
		return nil
	}
	s, rest := certified(t, ca, "wdc")
	s.declare(s.pack("open", guest("1"), perigee.Policy{}))
	s.declare(s.pack("kept", guest("1"), perigee.Policy{Residency: []string{"fra"}}))
	const host = "open.shop.example"
	var token string
	select {
	case token = <-asks:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody orders")
	}
	for _, n := range []*Node{s.Node, rest[0]} {
		if ch := n.challenges(t.Context(), host); len(ch) != 1 || ch[0].Token != token {
			t.Errorf("%s answers %+v, want token %s", n.ID(), ch, token)
		}
		if n.ID() != s.issuer.responsible(s.View(), host) && !n.issuer.orderedElsewhere(t.Context(), host) {
			t.Errorf("%s does not see the order", n.ID())
		}
	}
	close(answered)
	s.shared(host, 0, "fra-1", "wdc-1")
	wait(t, 20*time.Second, "the other node has it", func() bool { return rest[0].webCerts.forHost(host) != nil })
	s.shared("kept.shop.example", 0, "fra-1")
	for _, name := range []string{host, "kept.shop.example"} {
		if n := ca.Orders(name); n != 1 {
			t.Errorf("%d orders of %s, want 1", n, name)
		}
	}
	if ch := rest[0].challenges(t.Context(), host); ch != nil {
		t.Errorf("answered after the order: %+v", ch)
	}

	// What was sealed to a node before a residency excluded it, the node does not open.
	moved := s.View()
	fn := &perigee.Function{Name: "open", Live: &perigee.Revision{Manifest: perigee.Manifest{
		Name: "open", Routes: []perigee.Route{{Host: host, Path: "/"}}, Placement: perigee.Policy{Residency: []string{"wdc"}},
	}}}
	d := *moved.Desired
	d.Functions = map[string]*perigee.Function{"open": fn}
	w := newWebCerts(s.Node)
	w.view = func() *perigee.View { return &perigee.View{Desired: perigee.NewDesired(d), Observed: moved.Observed} }
	if w.update(moved.Desired.Web); w.forHost(host) != nil {
		t.Error("a node outside the residency has the key")
	}
}

// TestNotWhileAnotherDoes begins no order that another issuer is at, or is responsible for.
func TestNotWhileAnotherDoes(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	s, rest := certified(t, ca, "wdc")
	s.declare(s.pack("a", guest("1"), perigee.Policy{}))
	s.shared("a.shop.example", 0, "fra-1", "wdc-1") // so there is an account
	mine, other := s.hostOf(s.ID())+".shop.example", s.hostOf(rest[0].ID())+".shop.example"
	i := newIssuer(s.Node, s.issuer.client.Load())
	i.fetch = func(context.Context, perigee.NodeID, string) ([]byte, error) {
		return fmt.Appendf(nil, `{%q: {"running": true}}`, mine), nil
	}
	for _, name := range []string{mine, other} {
		if err := i.orderIfDue(t.Context(), name, &order{}, nil); !errors.Is(err, errBusy) {
			t.Errorf("%s: %v, want that another is at it", name, err)
		}
		if n := ca.Orders(name); n != 0 {
			t.Errorf("%d orders of %s", n, name)
		}
	}
}

// TestNames has orders for hosts that functions answer at and that a public CA can certify, and no others; with DNS, those
// directly below the domain have one together.
func TestNames(t *testing.T) {
	fn := func(name string, hosts ...string) *perigee.Function {
		m := perigee.Manifest{Name: name}
		for _, h := range hosts {
			m.Routes = append(m.Routes, perigee.Route{Host: h, Path: "/"})
		}
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: m}}
	}
	v := issuerView(nil, fn("a", "a.fn.example", "b.fn.example", "x.y.fn.example"), fn("c", "c.example.com", "c.internal", "localhost"))
	for _, c := range []struct {
		dns  *acme.DNS
		want string
	}{
		{nil, "[a.fn.example b.fn.example c.example.com x.y.fn.example]"},
		{&acme.DNS{}, "[*.fn.example c.example.com x.y.fn.example]"},
	} {
		client, err := acme.New(acme.Config{Directory: "https://ca.example/dir", DNS: c.dns})
		if err != nil {
			t.Fatal(err)
		}
		s := &issuer{}
		s.client.Store(client)
		if got := fmt.Sprint(s.names(v)); got != c.want {
			t.Errorf("names %v, want %s", got, c.want)
		}
	}
	if got := (&issuer{}).names(v); got != nil {
		t.Errorf("without a CA: %v", got)
	}
}

// TestSealedTo seals an account to issuers, and a certificate to all whom the residency of its host allows; neither to nodes that
// were removed or are dead.
func TestSealedTo(t *testing.T) {
	s := newSingle(t)
	fn := &perigee.Function{Name: "b", Live: &perigee.Revision{Manifest: perigee.Manifest{
		Name: "b", Routes: []perigee.Route{{Host: "b.fn.example", Path: "/"}}, Placement: perigee.Policy{Residency: []string{"eu"}},
	}}}
	v := issuerView(map[perigee.NodeID]perigee.NodeState{
		"i-fra-1": perigee.NodeAlive, "n-fra-1": perigee.NodeAlive, "i-wdc-1": perigee.NodeAlive, "i-ams-1": perigee.NodeDead, "i-lon-1": perigee.NodeAlive, "i-lon-2": perigee.NodeAlive,
	}, fn)
	for id, p := range v.Observed.Nodes {
		if id != "i-lon-2" { // it has not said its key yet
			p.Sealing = make([]byte, 32)
		}
	}
	d := *v.Desired
	d.Revoked = map[perigee.NodeID]bool{"i-lon-1": true}
	v.Desired = perigee.NewDesired(d)
	for name, want := range map[perigee.WebName]string{
		{Item: perigee.WebAccount, Name: "https://ca.example/dir"}: "[i-fra-1 i-wdc-1]",
		{Item: perigee.WebCertificate, Name: "b.fn.example"}:       "[i-fra-1 n-fra-1]",
		{Item: perigee.WebCertificate, Name: "nothing.fn.example"}: "[i-fra-1 i-wdc-1 n-fra-1]",
	} {
		var got []string
		for _, r := range s.issuer.recipients(v, name) {
			got = append(got, string(r.Node))
		}
		if slices.Sort(got); fmt.Sprint(got) != want {
			t.Errorf("%v is sealed to %v, want %s", name, got, want)
		}
	}
}

// TestRemovedNodeHasNoKey replaces what a node knew that was removed: its certificate, with another key.
func TestRemovedNodeHasNoKey(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	s, _ := certified(t, ca, "wdc")
	name := s.hostOf(s.ID())
	s.declare(s.pack(name, guest("1"), perigee.Policy{}))
	host := name + ".shop.example"
	before, old := s.shared(host, 0, "fra-1", "wdc-1")
	wait(t, 20*time.Second, "the issuer knows when to renew it", func() bool {
		o := s.issuer.known()[host]
		return !o.Running && o.version == before.Version
	})
	if got := s.webCerts.worries(time.Now()); got != nil {
		t.Errorf("worries: %v", got)
	}
	if _, err := s.person().Revoke(t.Context(), record.Revoke{Node: "wdc-1"}); err != nil {
		t.Fatal(err)
	}
	_, fresh := s.shared(host, before.Version, "fra-1")
	if bytes.Equal(old.RawSubjectPublicKeyInfo, fresh.RawSubjectPublicKeyInfo) {
		t.Error("the new certificate has the key that the removed node knows")
	}
	if n := ca.Orders(host); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

// TestRemovedIssuerHasNoAccount gives the account another key when an issuer is removed, and goes on with it: also when the change was
// begun before, by an issuer that could not end it, or that did and could not say so.
func TestRemovedIssuerHasNoAccount(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	s, _ := certified(t, ca, "wdc")
	s.declare(s.pack("a", guest("1"), perigee.Policy{}))
	before, _ := s.shared("a.shop.example", 0, "fra-1", "wdc-1") // so there is an account
	first, e, err := s.issuer.account()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.person().Revoke(t.Context(), record.Revoke{Node: "wdc-1"}); err != nil {
		t.Fatal(err)
	}
	s.shared("a.shop.example", before.Version, "fra-1")
	rekeyed := func(before *acme.Account, version uint64) (a *acme.Account, e *perigee.WebEntry) {
		t.Helper()
		wait(t, 20*time.Second, "the account has another key", func() bool {
			a, e, err = s.issuer.account()
			return err == nil && e.Version > version && a.Next == nil && !bytes.Equal(a.Key, before.Key)
		})
		if leaked(s.View(), e) {
			t.Error("the account is sealed to the removed node")
		}
		return a, e
	}
	second, e := rekeyed(first, e.Version)
	if _, err := s.issuer.client.Load().Order(t.Context(), first, "b.shop.example", nil); !acme.Refused(err) {
		t.Errorf("an order with the key that the removed node knows: %v", err)
	}

	for _, told := range []bool{false, true} {
		next, err := second.WithNext()
		if err != nil {
			t.Fatal(err)
		}
		if told {
			if _, err := s.issuer.client.Load().ChangeKey(t.Context(), next); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.issuer.share(t.Context(), s.issuer.accountName(), time.Time{}, next); err != nil {
			t.Fatal(err)
		}
		third, now := rekeyed(second, e.Version)
		if !bytes.Equal(third.Key, next.Next) {
			t.Errorf("told %v: the key is not the one that was begun with", told)
		}
		second, e = third, now
	}
	if _, err := s.issuer.client.Load().Order(t.Context(), second, "b.shop.example", nil); err != nil {
		t.Error(err)
	}
	if n := ca.Accounts(); n != 1 {
		t.Errorf("%d accounts, want 1", n)
	}
}

// TestAccountIsLost makes another account when the removed issuer was faster than its cluster.
func TestAccountIsLost(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	s, _ := certified(t, ca, "wdc")
	s.declare(s.pack("a", guest("1"), perigee.Policy{}))
	before, _ := s.shared("a.shop.example", 0, "fra-1", "wdc-1")
	a, e, err := s.issuer.account()
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := a.WithNext()
	if err == nil {
		_, err = s.issuer.client.Load().ChangeKey(t.Context(), stolen)
	}
	if err == nil {
		_, err = s.person().Revoke(t.Context(), record.Revoke{Node: "wdc-1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	wait(t, 20*time.Second, "there is another account", func() bool {
		now, seen, err := s.issuer.account()
		return err == nil && seen.Version > e.Version && now.Next == nil && now.URL != a.URL
	})
	s.shared("a.shop.example", before.Version, "fra-1")
	if n := ca.Accounts(); n != 2 {
		t.Errorf("%d accounts, want 2", n)
	}
}

// TestNewIsNotRenewed leaves a certificate alone that looks due though it was shared a moment ago, as all do to a clock that is
// hours ahead.
func TestNewIsNotRenewed(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	ca.Edit = func(leaf *x509.Certificate) {
		leaf.NotBefore, leaf.NotAfter = leaf.NotBefore.Add(-20*time.Hour), leaf.NotAfter.Add(-20*time.Hour)
	}
	s, _ := certified(t, ca)
	s.declare(s.pack("a", guest("1"), perigee.Policy{}))
	const host = "a.shop.example"
	e, leaf := s.shared(host, 0, "fra-1")
	if left := time.Until(acme.LastThird(leaf)); left > 0 {
		t.Fatalf("the certificate is due in %v, want it to be", left)
	}
	o := &order{}
	if err := s.issuer.orderIfDue(t.Context(), host, o, e); err != nil {
		t.Fatal(err)
	}
	if n := ca.Orders(host); n != 1 || time.Until(o.renew) < 3*time.Hour {
		t.Errorf("%d orders, the next in %v, want one order and hours", n, time.Until(o.renew))
	}
	o = &order{forced: true}
	if err := s.issuer.orderIfDue(t.Context(), host, o, e); err != nil {
		t.Fatal(err)
	}
	if n := ca.Orders(host); n != 2 || len(o.made) != 2 || o.forced {
		t.Errorf("%d orders after one that was asked for, noted: %+v", n, o)
	}
}

// TestDailyOrders counts a name's orders of the last day over the cluster: those of another issuer, and of a process before.
func TestDailyOrders(t *testing.T) {
	t.Parallel()
	ca := acmetest.NewCA(t)
	s, rest := certified(t, ca, "wdc")
	s.declare(s.pack("a", guest("1"), perigee.Policy{}))
	s.shared("a.shop.example", 0, "fra-1", "wdc-1") // so there is an account
	other := rest[0].issuer
	mine := s.hostOf(s.ID()) + ".shop.example"
	item := perigee.WebName{Item: perigee.WebOrders, Name: mine}
	noted := func(i *issuer) (times orderTimes) {
		if e := i.gossip.View().Desired.Web[item]; e != nil {
			if _, err := i.m.unseal(e, &times); err != nil {
				t.Fatal(err)
			}
		}
		return times
	}
	var made []time.Time
	for i := range orderDaily - 1 {
		made = append(made, time.Now().Add(-time.Duration(i+1)*time.Hour))
	}
	old := time.Now().Add(-25 * time.Hour)
	if err := other.share(t.Context(), item, time.Now().Add(time.Hour), &orderTimes{append(made, old)}); err != nil {
		t.Fatal(err)
	}
	wait(t, 20*time.Second, "it is known here", func() bool { return len(noted(s.issuer).Made) == orderDaily })
	if err := s.issuer.orderIfDue(t.Context(), mine, &order{}, nil); err != nil {
		t.Errorf("the tenth of a day: %v", err)
	}
	wait(t, 20*time.Second, "the other issuer knows", func() bool {
		got := noted(other).Made
		return len(got) == orderDaily && time.Since(got[len(got)-1]) < time.Hour && !slices.ContainsFunc(got, old.Equal)
	})
	e, _ := s.shared(mine, 0, "fra-1", "wdc-1")
	o := &order{forced: true} // of another process
	if err := s.issuer.orderIfDue(t.Context(), mine, o, e); !errors.Is(err, errBusy) {
		t.Errorf("one too many: %v", err)
	}
	if n := ca.Orders(mine); n != 1 {
		t.Errorf("%d orders here, want 1", n)
	}
	left := s.issuer.dueLocked(o, nil, time.Now())
	if first := 24*time.Hour - (orderDaily-1)*time.Hour; left < first-time.Hour || left > first || !strings.Contains(o.Error, "10 orders in a day") {
		t.Errorf("the next may begin in %v (%s), want some less than %v", left, o.Error, first)
	}
}

// TestOtherCA goes from one CA to another, as from a CA's trials to its real ones: an order names the certificate that it
// replaces to the CA that issued it, and to no other.
func TestOtherCA(t *testing.T) {
	t.Parallel()
	first, second := acmetest.NewCA(t), acmetest.NewCA(t)
	s, _ := certified(t, first)
	s.declare(s.pack("a", guest("1"), perigee.Policy{}))
	const host = "a.shop.example"
	e, _ := s.shared(host, 0, "fra-1")
	if err := s.issuer.orderIfDue(t.Context(), host, &order{forced: true}, e); err != nil {
		t.Fatal(err)
	}
	if n := first.Replaced(host); n != 1 {
		t.Errorf("%d orders say what they replace, want 1", n)
	}
	e, _ = s.shared(host, e.Version, "fra-1")
	client, err := acme.New(acme.Config{Directory: second.Directory()})
	if err != nil {
		t.Fatal(err)
	}
	i := newIssuer(s.Node, client)
	if err := i.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, 10*time.Second, "there is an account", func() bool { return s.View().Desired.Web[i.accountName()] != nil })
	if err := i.orderIfDue(t.Context(), host, &order{forced: true}, e); err != nil {
		t.Error(err)
	}
	if n := second.Orders(host); n != 1 {
		t.Errorf("%d orders at the second, want 1", n)
	}
}

// TestWrongClock: an issuer whose clock differs from the others' is responsible for nothing, and says so to its operator.
func TestWrongClock(t *testing.T) {
	v := issuerView(map[perigee.NodeID]perigee.NodeState{"i-fra-1": perigee.NodeAlive, "i-wdc-1": perigee.NodeAlive, "i-syd-1": perigee.NodeAlive})
	v.Observed.Nodes["i-syd-1"].ClockOff = perigee.Offset(-3 * time.Hour)
	v.Observed.Nodes["i-fra-1"].ClockOff = perigee.Offset(200 * time.Millisecond)
	if got := issuers(v); !slices.Equal(got, []perigee.NodeID{"i-fra-1", "i-wdc-1"}) {
		t.Errorf("issuers: %v", got)
	}
	if w := clockWorry(v.Observed.Nodes["i-fra-1"]); w != "" {
		t.Errorf("200 ms: %q", w)
	}
	if w := clockWorry(v.Observed.Nodes["i-syd-1"]); !strings.Contains(w, "3h0m0s ahead") {
		t.Errorf("3 h: %q", w)
	}
}
