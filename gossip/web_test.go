package gossip

import (
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// issued makes a web record for a host, signed by a node with these roles.
func (w *world) issued(node perigee.NodeID, host string, roles []perigee.Role, edits ...func(*record.Web)) []byte {
	w.t.Helper()
	c := perigee.NodeClaims{ID: node, Region: "fra", Roles: roles}
	var key [32]byte
	key[0] = 9
	env, err := identity.Seal([]byte("key"), []identity.Recipient{{Node: node, Key: key[:]}}, identity.SealContext{Cluster: w.cluster, Kind: "tls", Name: host, Version: 1})
	w.must(err)
	sealed, err := env.Marshal()
	w.must(err)
	p := &record.Web{Item: perigee.WebCertificate, Name: host, Version: 1, Expires: 1 << 33, Sealed: sealed, Chain: w.chain(c)}
	for _, edit := range edits {
		edit(p)
	}
	return w.sign(string(node), nil, p)
}

// TestWebRights has one case for each author of what nodes share to answer HTTPS.
func TestWebRights(t *testing.T) {
	w := newWorld(t)
	good := func() []byte { return w.issued("fra-1", "hello.com", []perigee.Role{perigee.RoleIssuer}) }
	body := func(raw []byte) record.Payload {
		rec, err := record.Decode(raw)
		w.must(err)
		p, err := rec.Open()
		w.must(err)
		return p
	}
	for _, c := range []struct {
		name string
		raws func() (before [][]byte, judged []byte)
		want Rule
	}{
		{"issuer", func() ([][]byte, []byte) { return nil, good() }, ""},
		{"signer", func() ([][]byte, []byte) {
			return nil, w.issued("fra-1", "hello.com", []perigee.Role{perigee.RoleSigner})
		}, "not admitted: right"},
		{"node without a role", func() ([][]byte, []byte) { return nil, w.issued("fra-1", "hello.com", nil) }, "not admitted: right"},
		{"operator with an issuer's certificate", func() ([][]byte, []byte) { return nil, w.sign("operator", nil, body(good())) }, "not admitted: signature"},
		{"another node with an issuer's certificate", func() ([][]byte, []byte) { return nil, w.sign("ams-1", nil, body(good())) }, "not admitted: signature"},
		{"issuer revoked before", func() ([][]byte, []byte) {
			return [][]byte{w.sign("operator", nil, &record.Revoke{Node: "fra-1"})}, good()
		}, RuleRevoked},
		{"issuer revoked by key before", func() ([][]byte, []byte) {
			return [][]byte{w.sign("operator", nil, &record.Revoke{Key: keyID("fra-1")})}, good()
		}, RuleRevoked},
		{"issuer revoked later", func() ([][]byte, []byte) {
			judged := good()
			return [][]byte{w.sign("operator", nil, &record.Revoke{Node: "fra-1"})}, judged
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, judged := c.raws()
			s, f := w.fold(append(slices.Clone(before), judged)...)
			if got := ruleOf(s, f, judged, w); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if has := f.desired.CertificateFor("hello.com") != nil; has != (c.want == "") {
				t.Errorf("in the View: %v", has)
			}
		})
	}
}

func TestWebShape(t *testing.T) {
	w := newWorld(t)
	roles := []perigee.Role{perigee.RoleIssuer}
	for name, edit := range map[string]func(*record.Web){
		"item":     func(p *record.Web) { p.Item = "cookie" },
		"host":     func(p *record.Web) { p.Name = "../key" },
		"wildcard": func(p *record.Web) { p.Name = "*.*.com" },
		"envelope": func(p *record.Web) { p.Sealed = []byte("secret") },
		"expiry":   func(p *record.Web) { p.Expires = -1 },
		"no chain": func(p *record.Web) { p.Chain = nil },
	} {
		if _, err := w.parser().parse(w.issued("fra-1", "hello.com", roles, edit)); RuleOf(err) != RuleShape {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWebLatest writes a host's certificate twice, and one for its whole domain.
func TestWebLatest(t *testing.T) {
	w := newWorld(t)
	roles := []perigee.Role{perigee.RoleIssuer}
	first := w.issued("fra-1", "a.hello.com", roles, func(p *record.Web) { p.Version = 1 })
	second := w.issued("ams-1", "a.hello.com", roles, func(p *record.Web) { p.Version = 2 })
	wild := w.issued("ams-1", "*.hello.com", roles, func(p *record.Web) { p.Version = 3 })
	_, f := w.fold(wild, second, first)
	for host, want := range map[string]uint64{"a.hello.com": 2, "b.hello.com": 3, "hello.com": 0, "a.b.hello.com": 0} {
		e := f.desired.CertificateFor(host)
		if (e == nil) != (want == 0) || e != nil && e.Version != want {
			t.Errorf("%s: %+v, want version %d", host, e, want)
		}
		if e != nil && !e.Expires.Equal(time.Unix(1<<33, 0)) {
			t.Errorf("%s expires %v", host, e.Expires)
		}
	}
}
