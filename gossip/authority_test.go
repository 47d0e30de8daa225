package gossip

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// fold returns what a set of records means after taking them in this order, as nodes do: what is
// not admitted yet waits.
func (w *world) fold(raws ...[]byte) (*set, *folded) {
	w.t.Helper()
	s := newSet()
	s.add(w.geneses()...)
	auth := newAuthority(w.parser().present().Genesis, s.governing)
	waiting := w.parsed(raws...)
	for progress := true; progress; {
		progress = false
		var left []*entry
		for _, e := range waiting {
			if auth.admits(e) != nil {
				left = append(left, e)
				continue
			}
			progress = true
			s.add(e)
			if e.governs() {
				auth = newAuthority(auth.genesis, s.governing)
			}
		}
		waiting = left
	}
	return s, collected(s, auth)
}

// collected folds a set and takes out of it what is outlived.
func collected(s *set, auth *authority) *folded {
	f := reduce(s, auth, nil, nil)
	s.remove(f.outlived)
	f.desired.Digest = s.tree.root
	return f
}

// ruleOf returns by which rule a record of the set has no effect, or is not in it.
func ruleOf(s *set, f *folded, raw []byte, w *world) Rule {
	e := s.byID[record.ID(raw)]
	if e == nil {
		e = w.parsed(raw)[0]
		if err := f.auth.admits(e); err != nil {
			return "not admitted: " + err.Rule
		}
		return "not tried"
	}
	if err := (judge{f.auth, f.revision, f.pointer}).verdict(e); err != nil {
		return err.Rule
	}
	return ""
}

// TestRights has one case for each kind of record and each kind of author.
func TestRights(t *testing.T) {
	w := newWorld(t)
	base := slices.Concat(
		w.person("operator 2", record.TokenOperator, record.Scope{}),
		w.person("deployer", record.TokenDeploy, record.Scope{}),
		w.person("narrow", record.TokenDeploy, record.Scope{Functions: []string{"hello*"}, Hosts: []string{"*.hello.com"}}),
		w.person("european", record.TokenDeploy, record.Scope{Placements: []string{"eu", "fra"}}),
	)
	rev := func(name string, hosts ...string) func(string) []byte {
		return func(author string) []byte {
			return w.sign(author, nil, &record.Revision{Manifest: manifest(name, hosts...), Bundle: perigee.Digest{1}})
		}
	}
	with := func(p record.Payload) func(string) []byte {
		return func(author string) []byte { return w.sign(author, nil, p) }
	}
	kinds := []struct {
		name string
		make func(author string) []byte
		// the rule by which each author's record has no effect
		genesis, operator, deployer, narrow, node, stranger Rule
	}{
		{"token", with(&record.Token{Kind: record.TokenDeploy, Public: pub("t9"), Signer: "fra-1", Expires: 1 << 33}),
			"", "", "not admitted: right", "not admitted: right", "not admitted: author", "not admitted: author"},
		{"revoke", with(&record.Revoke{Node: "syd-9"}),
			"", "", "not admitted: right", "not admitted: right", "not admitted: author", "not admitted: author"},
		{"region", with(&record.Region{Info: perigee.RegionInfo{Code: "zrh"}}),
			"", "", "not admitted: right", "not admitted: right", "not admitted: author", "not admitted: author"},
		{"revision in the narrow scope", rev("hello-a", "a.hello.com"),
			"", "", "", "", "not admitted: author", "not admitted: author"},
		{"revision of another function", rev("other"),
			"", "", "", "not admitted: scope", "not admitted: author", "not admitted: author"},
		{"revision with another host", rev("hello-b", "evil.com"),
			"", "", "", "not admitted: scope", "not admitted: author", "not admitted: author"},
		{"pointer in the narrow scope", with(&record.Pointer{Function: "hello-a"}),
			"", "", "", "", "not admitted: author", "not admitted: author"},
		{"secret in the narrow scope", with(&record.Secret{Function: "hello-a", Name: "KEY"}),
			"", "", "", "", "not admitted: author", "not admitted: author"},
		{"secret of another function", with(&record.Secret{Function: "other", Name: "KEY"}),
			"", "", "", "not admitted: scope", "not admitted: author", "not admitted: author"},
		{"purge in the narrow scope", with(&record.Purge{PurgeMatch: perigee.PurgeMatch{Function: "hello-a", Tag: "t"}}),
			"", "", "", "", "not admitted: author", "not admitted: author"},
		{"purge of another function", with(&record.Purge{PurgeMatch: perigee.PurgeMatch{Function: "other"}}),
			"", "", "", "not admitted: scope", "not admitted: author", "not admitted: author"},
		{"purge of all functions", with(&record.Purge{PurgeMatch: perigee.PurgeMatch{Host: "a.hello.com"}}),
			"", "", "", "not admitted: scope", "not admitted: author", "not admitted: author"},
		{"pointer of another function", with(&record.Pointer{Function: "other"}),
			"", "", "", "not admitted: scope", "not admitted: author", "not admitted: author"},
	}
	for _, k := range kinds {
		for author, want := range map[string]Rule{
			"operator": k.genesis, "operator 2": k.operator, "deployer": k.deployer, "narrow": k.narrow, "node-1": k.node, "stranger": k.stranger,
		} {
			t.Run(k.name+" by "+author, func(t *testing.T) {
				raw := k.make(author)
				s, f := w.fold(append(slices.Clone(base), raw)...)
				if got := ruleOf(s, f, raw, w); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
	for name, c := range map[string]struct {
		policy perigee.Policy
		want   Rule
	}{
		"anywhere":                     {perigee.Policy{}, "not admitted: scope"},
		"in its place":                 {perigee.Policy{Residency: []string{"eu"}}, ""},
		"pinned in its place":          {perigee.Policy{Pin: []string{"fra"}}, ""},
		"pinned beyond, but resident":  {perigee.Policy{Residency: []string{"eu"}, Pin: []string{"lhr"}}, ""},
		"resident beyond":              {perigee.Policy{Residency: []string{"eu", "us"}}, "not admitted: scope"},
		"only forbidden somewhere":     {perigee.Policy{Forbid: []string{"us"}}, "not admitted: scope"},
		"wanted there, allowed beyond": {perigee.Policy{Prefer: []string{"eu"}}, "not admitted: scope"},
	} {
		t.Run("a place: "+name, func(t *testing.T) {
			m := manifest("f")
			m.Placement = c.policy
			raw := w.sign("european", nil, &record.Revision{Manifest: m, Bundle: perigee.Digest{1}})
			s, f := w.fold(append(slices.Clone(base), raw)...)
			if got := ruleOf(s, f, raw, w); got != c.want {
				t.Errorf("revision: %q, want %q", got, c.want)
			}
			// The same rules by a pointer's own placement, whatever the manifest says.
			m.Placement = perigee.Policy{Residency: []string{"eu"}}
			rev := w.sign("operator", nil, &record.Revision{Manifest: m, Bundle: perigee.Digest{1}})
			ptr := w.sign("european", nil, &record.Pointer{Function: "f", Revision: record.ID(rev), Placement: &c.policy})
			s, f = w.fold(append(slices.Clone(base), rev, ptr)...)
			want := c.want
			if want != "" {
				want = RuleScope // a pointer is kept: what it means depends on the revision
			}
			if got := ruleOf(s, f, ptr, w); got != want {
				t.Errorf("pointer: %q, want %q", got, want)
			}
		})
	}
	t.Run("a second genesis", func(t *testing.T) {
		raw := w.sign("operator", nil, &record.Genesis{Cluster: w.cluster, Operator: pub("operator"), Root: w.root.Cert().Raw})
		if _, err := w.parser().parse(raw); RuleOf(err) != RuleRight {
			t.Errorf("parse: %v, want rule %s", err, RuleRight)
		}
	})
	t.Run("somebody else's signature", func(t *testing.T) {
		raw := w.sign("deployer", nil, &record.Pointer{Function: "hello"})
		rec, err := record.Decode(raw)
		w.must(err)
		rec.Signature = bytes.Repeat([]byte{1}, 64)
		forged, err := record.Marshal(rec)
		w.must(err)
		s, f := w.fold(append(slices.Clone(base), forged)...)
		if got := ruleOf(s, f, forged, w); got != "not admitted: signature" {
			t.Errorf("got %q", got)
		}
	})
}

// TestRedeem has one case for each condition of a redemption.
func TestRedeem(t *testing.T) {
	w := newWorld(t)
	tok := w.token("tok", record.TokenNode)
	person := w.token("ptok", record.TokenDeploy)
	onNode := func(id perigee.NodeID) func(*record.Redeem) { return func(r *record.Redeem) { r.Node = id } }
	foreign := newWorld(t)
	tests := []struct {
		name string
		raws func() (before [][]byte, judged []byte)
		want Rule
	}{
		{"good", func() ([][]byte, []byte) { return [][]byte{tok}, w.redeem("tok", "new", onNode("new-1")) }, ""},
		{"good, for a person", func() ([][]byte, []byte) { return [][]byte{person}, w.redeem("ptok", "new") }, ""},
		{"token unknown", func() ([][]byte, []byte) { return nil, w.redeem("tok", "new", onNode("new-1")) }, "not admitted: author"},
		{"node token without a name", func() ([][]byte, []byte) { return [][]byte{tok}, w.redeem("tok", "new") }, "not admitted: right"},
		{"person's token with a name", func() ([][]byte, []byte) { return [][]byte{person}, w.redeem("ptok", "new", onNode("new-1")) }, "not admitted: right"},
		{"signed by a person", func() ([][]byte, []byte) {
			good := w.redeem("tok", "new", onNode("new-1"))
			rec, err := record.Decode(good)
			w.must(err)
			body, err := rec.Open()
			w.must(err)
			return [][]byte{tok}, w.sign("operator", nil, body)
		}, "not admitted: signature"},
		{"another signer", func() ([][]byte, []byte) {
			r := &record.Redeem{Token: keyID("tok"), Public: pub("new"), Node: "new-1", Chain: w.chain(signerClaims("ams-1"))}
			r.Proof = ed25519.Sign(key("tok"), record.RedeemMessage(w.cluster, r.Public, r.Node))
			return [][]byte{tok}, w.sign("ams-1", nil, r)
		}, "not admitted: right"},
		{"no signer role", func() ([][]byte, []byte) {
			return [][]byte{tok}, w.redeem("tok", "new", onNode("new-1"), func(r *record.Redeem) {
				r.Chain = w.chain(perigee.NodeClaims{ID: "fra-1", Region: "fra"})
			})
		}, "not admitted: right"},
		{"proof for another key", func() ([][]byte, []byte) {
			return [][]byte{tok}, w.redeem("tok", "new", onNode("new-1"), func(r *record.Redeem) {
				r.Proof = ed25519.Sign(key("tok"), record.RedeemMessage(w.cluster, pub("other"), r.Node))
			})
		}, "not admitted: right"},
		{"proof for another name", func() ([][]byte, []byte) {
			return [][]byte{tok}, w.redeem("tok", "new", onNode("new-1"), func(r *record.Redeem) {
				r.Proof = ed25519.Sign(key("tok"), record.RedeemMessage(w.cluster, pub("new"), "new-2"))
			})
		}, "not admitted: right"},
		{"proof for another cluster", func() ([][]byte, []byte) {
			return [][]byte{tok}, w.redeem("tok", "new", onNode("new-1"), func(r *record.Redeem) {
				r.Proof = ed25519.Sign(key("tok"), record.RedeemMessage("ffffffffffffffff", pub("new"), r.Node))
			})
		}, "not admitted: right"},
		{"expired", func() ([][]byte, []byte) {
			old := w.token("old", record.TokenNode, func(t *record.Token) { t.Expires = time.Now().Add(-time.Minute).Unix() })
			return [][]byte{old}, w.redeem("old", "new", onNode("new-1"))
		}, RuleExpired},
		{"used before", func() ([][]byte, []byte) {
			first := w.redeem("tok", "first", onNode("first-1"))
			return [][]byte{tok, first}, w.redeem("tok", "new", onNode("new-1"))
		}, RuleUsed},
		{"used later", func() ([][]byte, []byte) {
			judged := w.redeem("tok", "new", onNode("new-1"))
			return [][]byte{tok, w.redeem("tok", "second", onNode("second-1"))}, judged
		}, ""},
		{"token revoked before", func() ([][]byte, []byte) {
			revoke := w.sign("operator", nil, &record.Revoke{Key: keyID("tok")})
			return [][]byte{tok, revoke}, w.redeem("tok", "new", onNode("new-1"))
		}, RuleRevoked},
		{"token revoked later", func() ([][]byte, []byte) {
			judged := w.redeem("tok", "new", onNode("new-1"))
			return [][]byte{tok, w.sign("operator", nil, &record.Revoke{Key: keyID("tok")})}, judged
		}, ""},
		{"signer revoked before", func() ([][]byte, []byte) {
			revoke := w.sign("operator", nil, &record.Revoke{Node: "fra-1"})
			return [][]byte{tok, revoke}, w.redeem("tok", "new", onNode("new-1"))
		}, RuleRevoked},
		{"name taken by another key", func() ([][]byte, []byte) {
			tok2 := w.token("tok2", record.TokenNode)
			first := w.redeem("tok", "first", onNode("new-1"))
			return [][]byte{tok, tok2, first}, w.redeem("tok2", "new", onNode("new-1"))
		}, RuleUsed},
		{"name taken by the same key", func() ([][]byte, []byte) {
			tok2 := w.token("tok2", record.TokenNode)
			first := w.redeem("tok", "new", onNode("new-1"))
			return [][]byte{tok, tok2, first}, w.redeem("tok2", "new", onNode("new-1"))
		}, ""},
		{"the signer's own name", func() ([][]byte, []byte) {
			return [][]byte{tok}, w.redeem("tok", "new", onNode("fra-1"))
		}, RuleUsed},
		{"stamped before the token", func() ([][]byte, []byte) {
			judged := w.redeem("tok3", "new", onNode("new-1"))
			return [][]byte{w.token("tok3", record.TokenNode)}, judged
		}, RuleAuthor},
		{"token of a key without rights", func() ([][]byte, []byte) {
			revoked := w.person("gone", record.TokenOperator, record.Scope{})
			revoke := w.sign("operator", nil, &record.Revoke{Key: keyID("gone")})
			bad := w.sign("gone", nil, &record.Token{Kind: record.TokenNode, Public: pub("tok4"), Signer: "fra-1", Region: "fra", Expires: 1 << 33})
			return append(revoked, revoke, bad), w.redeem("tok4", "new", onNode("new-1"))
		}, RuleRevoked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, judged := tt.raws()
			s, f := w.fold(append(before, judged)...)
			if got := ruleOf(s, f, judged, w); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("chain of another cluster", func(t *testing.T) {
		raw := w.redeem("tok", "new", onNode("new-1"), func(r *record.Redeem) { r.Chain = foreign.chain(signerClaims("fra-1")) })
		if _, err := w.parser().parse(raw); RuleOf(err) != RuleShape {
			t.Errorf("parse: %v, want rule %s", err, RuleShape)
		}
	})
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	people := slices.Concat(w.person("op2", record.TokenOperator, record.Scope{}), w.person("dep", record.TokenDeploy, record.Scope{}))
	rev, ptr := w.deploy("dep", manifest("before"))
	revokeDep := w.sign("op2", nil, &record.Revoke{Key: keyID("dep")})
	rev2, ptr2 := w.deploy("dep", manifest("after"))
	revokeOp2 := w.sign("operator", nil, &record.Revoke{Key: keyID("op2")})
	tokenLate := w.sign("op2", nil, &record.Token{Kind: record.TokenDeploy, Public: pub("x"), Signer: "fra-1", Expires: 1 << 33})
	all := slices.Concat(people, [][]byte{rev, ptr, revokeDep, rev2, ptr2, revokeOp2, tokenLate})
	s, f := w.fold(all...)
	for raw, want := range map[string]Rule{
		string(rev): "", string(ptr): "", string(revokeDep): "", string(rev2): RuleRevoked, string(ptr2): RuleRevoked,
		string(revokeOp2): "", string(tokenLate): RuleRevoked,
	} {
		if got := ruleOf(s, f, []byte(raw), w); got != want {
			t.Errorf("%s: got %q, want %q", w.parsed([]byte(raw))[0].rec.Kind, got, want)
		}
	}
	if f.desired.Functions["before"] == nil || f.desired.Functions["after"] != nil {
		t.Errorf("functions %v, want only the one from before the revocation", f.desired.Functions)
	}

	t.Run("by a key revoked before", func(t *testing.T) {
		late := w.sign("op2", nil, &record.Revoke{Key: keyID("operator")})
		s, f := w.fold(append(slices.Clone(all), late)...)
		if got := ruleOf(s, f, late, w); got != RuleRevoked {
			t.Errorf("got %q, want %q", got, RuleRevoked)
		}
	})
	t.Run("node by its key", func(t *testing.T) {
		node := [][]byte{w.token("ntok", record.TokenNode), w.redeem("ntok", "syd-1", func(r *record.Redeem) { r.Node = "syd-1" })}
		_, f := w.fold(append(node, w.sign("operator", nil, &record.Revoke{Key: keyID("syd-1")}))...)
		if !f.desired.Revoked["syd-1"] {
			t.Errorf("revoked nodes are %v, want syd-1 among them", f.desired.Revoked)
		}
	})
}

// TestVoidRedemption gives keys redemptions without effect: what they sign is kept and means nothing.
func TestVoidRedemption(t *testing.T) {
	w := newWorld(t)
	tok := w.token("tok", record.TokenOperator)
	first, second := w.redeem("tok", "first"), w.redeem("tok", "second")
	old := w.token("old", record.TokenDeploy, func(t *record.Token) { t.Expires = time.Now().Add(-time.Minute).Unix() })
	late := w.redeem("old", "late")
	// The same key in two tokens, of which only the first is in force: the wider one gives nothing.
	narrow := w.token("twice", record.TokenDeploy, func(t *record.Token) { t.Scope.Functions = []string{"a"} })
	wide := w.token("twice", record.TokenOperator)
	both := w.redeem("twice", "both")
	raws := [][]byte{tok, first, second, old, late, narrow, wide, both}
	check := func(who string, want Rule) {
		t.Helper()
		for _, p := range []record.Payload{&record.Pointer{Function: "b"}, &record.Revoke{Node: "x-1"}} {
			if _, revoke := p.(*record.Revoke); revoke && who == "late" {
				continue // a deploy key's would not even be kept
			}
			raw := w.sign(who, nil, p)
			s, f := w.fold(append(slices.Clone(raws), raw)...)
			if got := ruleOf(s, f, raw, w); got != want {
				t.Errorf("%s record of %s: %q, want %q", w.parsed(raw)[0].rec.Kind, who, got, want)
			}
		}
	}
	check("first", "")
	check("second", RuleRevoked)
	check("late", RuleRevoked)
	_, f := w.fold(raws...)
	for who, want := range map[string]author{"first": operator, "second": "", "late": "", "both": deployer} {
		var got author
		for _, g := range f.auth.grants[keyID(who)] {
			if g.inForce {
				got = g.as
			}
		}
		if got != want {
			t.Errorf("%s has the rights of %q, want %q", who, got, want)
		}
	}
}

// TestRefusalTexts keeps the words by which a person learns what to do.
func TestRefusalTexts(t *testing.T) {
	w := newWorld(t)
	people := w.person("narrow", record.TokenDeploy, record.Scope{Functions: []string{"hello*", "api"}})
	raw := w.sign("narrow", nil, &record.Pointer{Function: "other"})
	_, f := w.fold(people...)
	err := f.auth.admits(w.parsed(raw)[0])
	want := fmt.Sprintf(`key %s may deploy only functions matching hello*, api, not "other"; ask an operator for a wider token`, keyID("narrow"))
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
