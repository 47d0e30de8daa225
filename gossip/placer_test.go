package gossip

import (
	"slices"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// TestPlacementKey has one case for each kind of record that a key for placements may try to write, and for
// each way in which a pointer could do more than place.
func TestPlacementKey(t *testing.T) {
	w := newWorld(t)
	base := slices.Concat(
		w.person("deployer", record.TokenDeploy, record.Scope{}),
		w.person("placer", record.TokenDeploy, record.Scope{Functions: []string{"f"}, Placements: []string{"eu", "fra"}, PlacementOnly: true}),
		w.person("both", record.TokenDeploy, record.Scope{Functions: []string{"f"}, PlacementOnly: true}),
		[][]byte{w.token("full", record.TokenDeploy, func(t *record.Token) { t.Scope.Functions = []string{"f"} }), w.redeem("full", "both")},
	)
	eu := &perigee.Policy{Residency: []string{"eu"}}
	revision := func(name, env string) ([]byte, perigee.Digest) {
		m := manifest(name)
		m.Env = map[string]string{"V": env}
		raw := w.sign("deployer", nil, &record.Revision{Manifest: m, Bundle: perigee.Digest{1}})
		return raw, record.ID(raw)
	}
	point := func(author string, parents []perigee.Digest, p record.Pointer) ([]byte, perigee.Digest) {
		raw := w.sign(author, parents, &p)
		return raw, record.ID(raw)
	}
	rev1, one := revision("f", "1")
	first, firstID := point("deployer", nil, record.Pointer{Function: "f", Revision: one})
	rev2, two := revision("f", "2")
	second, secondID := point("deployer", []perigee.Digest{firstID}, record.Pointer{Function: "f", Revision: two})
	other, otherRev := revision("g", "1")
	otherPtr, otherID := point("deployer", nil, record.Pointer{Function: "g", Revision: otherRev})
	base = append(base, rev1, first, rev2, second, other, otherPtr)

	now := []perigee.Digest{secondID}
	with := func(p record.Payload, parents ...perigee.Digest) func(string) []byte {
		return func(author string) []byte { return w.sign(author, parents, p) }
	}
	m := manifest("f")
	m.Placement = *eu
	for _, c := range []struct {
		name string
		make func(author string) []byte
		want Rule // for the placer; "" = it has its effect
		both Rule // for a key that got a full right to the function, too
	}{
		{"token", with(&record.Token{Kind: record.TokenDeploy, Public: pub("t9"), Signer: "fra-1", Expires: 1 << 33}), "not admitted: right", "not admitted: right"},
		{"revoke", with(&record.Revoke{Node: "syd-9"}), "not admitted: right", "not admitted: right"},
		{"region", with(&record.Region{Info: perigee.RegionInfo{Code: "zrh"}}), "not admitted: right", "not admitted: right"},
		{"revision", with(&record.Revision{Manifest: m, Bundle: perigee.Digest{1}}), "not admitted: scope", ""},
		{"purge", with(&record.Purge{PurgeMatch: perigee.PurgeMatch{Function: "f"}}), "not admitted: scope", ""},
		{"secret", with(&record.Secret{Function: "f", Name: "KEY"}), "not admitted: scope", ""},
		{"removal", with(&record.Pointer{Function: "f"}, now...), "not admitted: scope", ""},
		{"placement", with(&record.Pointer{Function: "f", Revision: two, Placement: eu}, now...), "", ""},
		{"placement of another function", with(&record.Pointer{Function: "g", Revision: otherRev, Placement: eu}, otherID), "not admitted: scope", "not admitted: scope"},
		{"placement beyond its places", with(&record.Pointer{Function: "f", Revision: two, Placement: &perigee.Policy{Residency: []string{"syd"}}}, now...), RuleScope, ""},
		{"the manifest's placement, beyond its places", with(&record.Pointer{Function: "f", Revision: two}, now...), RuleScope, ""},
		{"other code", with(&record.Pointer{Function: "f", Revision: one, Placement: eu}, now...), RuleScope, ""},
		{"code and a placement that replace both", with(&record.Pointer{Function: "f", Revision: two, Placement: eu}, firstID, secondID), RuleScope, ""},
		{"without what it replaces", with(&record.Pointer{Function: "f", Revision: two, Placement: eu}), RuleScope, ""},
		{"of what is not there", with(&record.Pointer{Function: "f", Revision: two, Placement: eu}, perigee.Digest{9}), RuleReference, ""},
		{"of another function's pointer", with(&record.Pointer{Function: "f", Revision: two, Placement: eu}, otherID), RuleReference, ""},
		{"another rollout", with(&record.Pointer{Function: "f", Revision: two, Placement: eu, Rollout: rolloutAll}, now...), RuleScope, ""},
	} {
		for author, want := range map[string]Rule{"placer": c.want, "both": c.both} {
			t.Run(c.name+" by "+author, func(t *testing.T) {
				raw := c.make(author)
				s, f := w.fold(append(slices.Clone(base), raw)...)
				if got := ruleOf(s, f, raw, w); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				if want == "" || author == "both" {
					return
				}
				if fn := f.desired.Functions["f"]; fn == nil || record.RevisionID(two) != fn.Live.ID || fn.Placement != nil {
					t.Errorf("it changed f: %+v", fn)
				}
			})
		}
	}

	// A change of the placement of old code, stamped now, does not bring that code back; neither does one
	// of that change. Of full rights the latest counts.
	t.Run("a change of what was replaced", func(t *testing.T) {
		stale, staleID := point("placer", []perigee.Digest{firstID}, record.Pointer{Function: "f", Revision: one, Placement: eu})
		again, _ := point("placer", []perigee.Digest{staleID}, record.Pointer{Function: "f", Revision: one, Placement: &perigee.Policy{Pin: []string{"fra"}}})
		s, f := w.fold(append(slices.Clone(base), stale, again)...)
		for _, raw := range [][]byte{stale, again} {
			if got := ruleOf(s, f, raw, w); got != "" {
				t.Errorf("refused by %q", got)
			}
		}
		fn := f.desired.Functions["f"]
		if fn.Live.ID != record.RevisionID(two) || fn.Placement != nil || len(fn.Conflicts) != 1 {
			t.Errorf("%s is live with %+v and %d conflicts, want the later code, and the change as a conflict", fn.Live.ID, fn.Placement, len(fn.Conflicts))
		}
		late, _ := point("both", []perigee.Digest{firstID}, record.Pointer{Function: "f", Revision: one, Placement: eu})
		_, f = w.fold(append(slices.Clone(base), late)...)
		if fn := f.desired.Functions["f"]; fn.Live.ID != record.RevisionID(one) {
			t.Errorf("%s is live, want what the full right wrote last", fn.Live.ID)
		}
	})
	t.Run("names of what is on its way", func(t *testing.T) {
		raw, _ := point("placer", []perigee.Digest{firstID}, record.Pointer{Function: "f", Revision: one, Placement: eu, Past: now})
		early := append(slices.Clone(base[:len(base)-4]), raw) // before the second revision and its pointer came
		s, f := w.fold(early...)
		if got := ruleOf(s, f, raw, w); got != RuleScope {
			t.Errorf("got %q, want %q", got, RuleScope)
		}
	})
	t.Run("many changes, and a deploy after them", func(t *testing.T) {
		raws, last, past := slices.Clone(base), secondID, []perigee.Digest{firstID}
		for i := range 5 {
			p := &perigee.Policy{Residency: []string{"eu"}, Max: i + 2}
			raw, id := point("placer", []perigee.Digest{last}, record.Pointer{Function: "f", Revision: two, Placement: p, Past: past})
			raws, past, last = append(raws, raw), append([]perigee.Digest{last}, past...), id
		}
		_, f := w.fold(raws...)
		if fn := f.desired.Functions["f"]; fn.Placement == nil || fn.Placement.Max != 6 || len(fn.Conflicts) > 0 {
			t.Errorf("%+v, want the last change", fn)
		}
		rev3, three := revision("f", "3")
		raw, _ := point("deployer", []perigee.Digest{last}, record.Pointer{Function: "f", Revision: three, Past: past})
		_, f = w.fold(append(raws, rev3, raw)...)
		if fn := f.desired.Functions["f"]; fn.Live.ID != record.RevisionID(three) || len(fn.Kept) != 2 || fn.Kept[0].ID != record.RevisionID(two) {
			t.Errorf("%s after %d others, want the third after the second and the first", fn.Live.ID, len(fn.Kept))
		}
	})
	t.Run("two changes at the same time", func(t *testing.T) {
		a, _ := point("placer", now, record.Pointer{Function: "f", Revision: two, Placement: eu})
		b, _ := point("placer", now, record.Pointer{Function: "f", Revision: two, Placement: &perigee.Policy{Pin: []string{"fra"}}})
		for _, raws := range [][][]byte{{a, b}, {b, a}} {
			_, f := w.fold(append(slices.Clone(base), raws...)...)
			if fn := f.desired.Functions["f"]; fn.Live.ID != record.RevisionID(two) || fn.Placement == nil || len(fn.Placement.Pin) != 1 {
				t.Errorf("%s with %+v, want the later change", fn.Live.ID, fn.Placement)
			}
		}
	})
}
