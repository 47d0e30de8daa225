package placement

import (
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

func TestAllowed(t *testing.T) {
	fra := perigee.NodeClaims{ID: "fra-1", Region: "fra", Labels: map[string]string{"gpu": "yes"}}
	lab := perigee.NodeClaims{ID: "lab-1", Region: "lab"} // a region this node has not heard of
	for _, tt := range []struct {
		name   string
		policy perigee.Policy
		node   perigee.NodeClaims
		rule   string // "" = allowed
	}{
		{"no rule", perigee.Policy{}, fra, ""},
		{"soft keys exclude nobody", perigee.Policy{Prefer: []string{"syd"}, Warm: map[string]int{"syd": 1}, Max: 1}, fra, ""},
		{"in the residency by group", perigee.Policy{Residency: []string{"eu"}}, fra, ""},
		{"in one of several", perigee.Policy{Residency: []string{"na", "fra"}}, fra, ""},
		{"outside the residency", perigee.Policy{Residency: []string{"na", "sa"}}, fra, `residency = ["na", "sa"]`},
		{"pinned", perigee.Policy{Pin: []string{"syd", "fra"}}, fra, ""},
		{"pinned elsewhere", perigee.Policy{Pin: []string{"ams"}}, fra, `pin = ["ams"]`},
		{"pinned by name", perigee.Policy{Pin: []string{"node:fra-1"}}, fra, ""},
		{"pinned to another by name", perigee.Policy{Pin: []string{"node:fra-2"}}, fra, `pin = ["node:fra-2"]`},
		{"pinned by label", perigee.Policy{Pin: []string{"label:gpu=yes"}}, fra, ""},
		{"forbidden", perigee.Policy{Forbid: []string{"lon", "eu"}}, fra, `forbid = ["lon", "eu"]`},
		{"forbidden by name", perigee.Policy{Forbid: []string{"node:fra-1"}}, fra, `forbid = ["node:fra-1"]`},
		{"forbidden by label", perigee.Policy{Forbid: []string{"label:gpu=yes"}}, fra, `forbid = ["label:gpu=yes"]`},
		{"another value of the label", perigee.Policy{Forbid: []string{"label:gpu=no"}}, fra, ""},
		{"residency is asked before pin", perigee.Policy{Residency: []string{"na"}, Pin: []string{"wdc"}}, fra, `residency = ["na"]`},
		{"a pin does not widen the residency", perigee.Policy{Residency: []string{"na"}, Pin: []string{"fra"}}, fra, `residency = ["na"]`},
		{"a pin does not undo forbid", perigee.Policy{Pin: []string{"eu"}, Forbid: []string{"fra"}}, fra, `forbid = ["fra"]`},
		{"residency that can't be read contains nobody", perigee.Policy{Residency: []string{"Not A Label"}}, fra, `residency = ["Not A Label"]`},
		{"pin that can't be read contains nobody", perigee.Policy{Pin: []string{"label:gpu"}}, fra, `pin = ["label:gpu"]`},
		{"forbid that can't be read spares nobody", perigee.Policy{Forbid: []string{"label:gpu"}}, fra, `forbid = ["label:gpu"]`},
		{"forbidden place nobody has heard of", perigee.Policy{Forbid: []string{"newplace"}}, fra, `forbid = ["newplace"]`},
		{"node in a region nobody has heard of, group forbidden", perigee.Policy{Forbid: []string{"eu"}}, lab, `forbid = ["eu"]`},
		{"node in a region nobody has heard of, another region forbidden", perigee.Policy{Forbid: []string{"fra"}}, lab, ""},
		{"node in a region nobody has heard of, named itself", perigee.Policy{Residency: []string{"lab"}}, lab, ""},
		{"node in a region nobody has heard of, group residency", perigee.Policy{Residency: []string{"eu"}}, lab, `residency = ["eu"]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule, ok := Allowed(&tt.policy, tt.node, perigee.BuiltinRegions())
			if rule != tt.rule || ok != (tt.rule == "") {
				t.Errorf("Allowed = %q, %v; want rule %q", rule, ok, tt.rule)
			}
		})
	}
}

func TestAllowedWithoutPolicyOrCatalogue(t *testing.T) {
	n := perigee.NodeClaims{ID: "fra-1", Region: "fra"}
	if rule, ok := Allowed(nil, n, nil); !ok {
		t.Errorf("no policy: excluded by %q", rule)
	}
	if _, ok := Allowed(&perigee.Policy{Pin: []string{"fra"}}, n, nil); !ok {
		t.Error("its own region needs no catalogue")
	}
	if _, ok := Allowed(&perigee.Policy{Forbid: []string{"eu"}}, n, nil); ok {
		t.Error("a group that can't be looked up must count as forbidden")
	}
}

func TestLongRulesAreCut(t *testing.T) {
	var many []string
	for range 20 {
		many = append(many, "wdc")
	}
	rule, _ := Allowed(&perigee.Policy{Pin: many}, perigee.NodeClaims{ID: "fra-1", Region: "fra"}, perigee.BuiltinRegions())
	if strings.Count(rule, "wdc") != maxSpelled || !strings.HasSuffix(rule, `, and 12 more]`) {
		t.Errorf("rule = %s", rule)
	}
}
