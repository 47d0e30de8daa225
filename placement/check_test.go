package placement

import (
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy perigee.Policy
		want   string // lines of the error; "" = fine
	}{
		{"nothing asked", perigee.Policy{}, ""},
		{"the sample of the manual", perigee.Policy{Residency: []string{"eu"}, Pin: []string{"fra", "ams"}, Forbid: []string{"lon"}, Warm: map[string]int{"fra": 1}}, ""},
		{"nodes and labels", perigee.Policy{Residency: []string{"label:law=eu"}, Pin: []string{"node:fra-1", "label:gpu=yes"}, Forbid: []string{"node:fra-2"}, Prefer: []string{"node:fra-1"}, Max: 2}, ""},
		{"a group pinned whose regions are forbidden in part", perigee.Policy{Pin: []string{"eu"}, Forbid: []string{"fra", "ams"}}, ""},
		{"a pin inside the residency by group", perigee.Policy{Residency: []string{"eu27"}, Pin: []string{"eu"}}, ""},
		{"nothing kept warm", perigee.Policy{Warm: map[string]int{"fra": 0}}, ""},

		{"entry that can't be read", perigee.Policy{Pin: []string{"label:gpu"}}, `pin: "label:gpu": want label:<key>=<value>`},
		{"empty entry", perigee.Policy{Forbid: []string{""}}, `forbid: the name is empty: use 1 to 63 of a-z, 0-9 and '-'`},
		{"twice", perigee.Policy{Residency: []string{"eu", "eu"}}, `residency names "eu" twice: remove one`},
		{"unknown place", perigee.Policy{Prefer: []string{"frankfurt"}}, `prefer: "frankfurt" is no region or group of this cluster: see perigee region ls, or add it with perigee region add`},
		{"all that is unknown is listed", perigee.Policy{Residency: []string{"xx"}, Warm: map[string]int{"yy": 1}},
			`residency: "xx" is no region or group of this cluster: see perigee region ls, or add it with perigee region add
warm: "yy" is no region or group of this cluster: see perigee region ls, or add it with perigee region add`},
		{"warm by node", perigee.Policy{Warm: map[string]int{"node:fra-1": 1}}, `warm counts by region or group, and "node:fra-1" is neither`},
		{"warm that can't be read", perigee.Policy{Warm: map[string]int{"label:x": 1}}, `warm: "label:x": want label:<key>=<value>`},
		{"negative warm", perigee.Policy{Warm: map[string]int{"fra": -1}}, `warm = { fra = -1 }: use 0 or more`},

		{"pin outside residency", perigee.Policy{Residency: []string{"eu"}, Pin: []string{"fra", "wdc"}}, `pin: "wdc" lies outside residency = ["eu"]: remove the entry or widen the residency`},
		{"pin forbidden by the same word", perigee.Policy{Pin: []string{"node:fra-1"}, Forbid: []string{"node:fra-1"}}, `pin and forbid both name "node:fra-1": remove one`},
		{"pin forbidden by its group", perigee.Policy{Pin: []string{"fra", "wdc"}, Forbid: []string{"na"}}, `pin: "wdc" has no region left, given pin = ["fra", "wdc"] and forbid = ["na"]: remove one of them`},
		{"pinned group forbidden by region and residency", perigee.Policy{Residency: []string{"fra", "wdc"}, Pin: []string{"eu", "na"}, Forbid: []string{"fra"}},
			`pin: "eu" has no region left, given residency = ["fra", "wdc"] and pin = ["eu", "na"] and forbid = ["fra"]: remove one of them`},
		{"all of the residency forbidden", perigee.Policy{Residency: []string{"fra", "ams"}, Forbid: []string{"eu"}}, `no region of this cluster is left, given residency = ["fra", "ams"] and forbid = ["eu"]: narrow forbid`},
		{"everything forbidden", perigee.Policy{Forbid: []string{"af", "as", "eu", "na", "oc", "sa"}}, `no region of this cluster is left, given forbid = ["af", "as", "eu", "na", "oc", "sa"]: narrow forbid`},
		{"warm outside the rules", perigee.Policy{Residency: []string{"eu"}, Warm: map[string]int{"syd": 1}}, `warm = { syd = 1 } can't be kept, given residency = ["eu"]: remove the entry`},
		{"prefer outside the rules", perigee.Policy{Pin: []string{"fra"}, Prefer: []string{"fra", "ams"}}, `prefer: "ams" can never be used, given pin = ["fra"]: remove the entry`},
		{"prefer of a forbidden node", perigee.Policy{Prefer: []string{"node:fra-1"}, Forbid: []string{"node:fra-1"}}, `prefer: "node:fra-1" can never be used, given forbid = ["node:fra-1"]: remove the entry`},

		{"negative max", perigee.Policy{Max: -1}, `max = -1: use 1 or more, or 0 for no limit`},
		{"max below pins", perigee.Policy{Pin: []string{"fra", "ams", "lon"}, Max: 2}, `max = 2 is less than the 3 places of pin = ["fra", "ams", "lon"], each of which needs a holder: raise max or pin fewer`},
		{"max equal to pins", perigee.Policy{Pin: []string{"fra", "ams"}, Max: 2}, ""},
		{"max below warm", perigee.Policy{Warm: map[string]int{"fra": 2, "syd": 1}, Max: 2}, `max = 2 is less than the 3 holders that warm and pin ask for: raise max or keep fewer warm`},
		{"regions count towards their group", perigee.Policy{Warm: map[string]int{"eu": 2, "fra": 1}, Max: 2}, ""},
		{"a group counts its regions", perigee.Policy{Warm: map[string]int{"eu": 1, "fra": 2, "ams": 1}, Max: 2}, `max = 2 is less than the 3 holders that warm and pin ask for: raise max or keep fewer warm`},
		{"groups apart add up", perigee.Policy{Warm: map[string]int{"eu": 2, "na": 1}, Max: 2}, `max = 2 is less than the 3 holders that warm and pin ask for: raise max or keep fewer warm`},
		{"groups in one another don't", perigee.Policy{Warm: map[string]int{"as": 1, "me": 1}, Max: 1}, ""},
		{"pins and warm elsewhere add up", perigee.Policy{Pin: []string{"fra", "ams"}, Warm: map[string]int{"fra": 2}, Max: 2}, `max = 2 is less than the 3 holders that warm and pin ask for: raise max or keep fewer warm`},
		{"callers that fit", perigee.Policy{Residency: []string{"eu", "na"}, Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}}}, ""},
		{"callers with half a rule", perigee.Policy{Callers: []perigee.CallerRule{{From: []string{"eu"}}}}, `callers[0] needs both from and run: requests from where run only where`},
		{"callers at a node", perigee.Policy{Callers: []perigee.CallerRule{{From: []string{"node:fra-1"}, Run: []string{"eu"}}}},
			`callers[0].from: "node:fra-1" is no place where clients are: use regions or groups`},
		{"callers whose run is excluded", perigee.Policy{Residency: []string{"eu"}, Callers: []perigee.CallerRule{{From: []string{"na"}, Run: []string{"na"}}}},
			`callers[0]: requests from na may run nowhere, given residency = ["eu"] and callers = [{ from = ["na"], run = ["na"] }]: change run, or widen the other rules`},
		{"callers that contradict", perigee.Policy{Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}, {From: []string{"fra"}, Run: []string{"wdc"}}}},
			`requests from fra may run nowhere: callers = [{ from = ["eu"], run = ["eu"] }, { from = ["fra"], run = ["wdc"] }] contradict each other there: narrow from in one of them, or widen run`},
		{"max below callers", perigee.Policy{Max: 1, Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}, {From: []string{"sa"}, Run: []string{"sao"}}}},
			`max = 1 is less than the 2 holders that warm, pin and callers ask for: raise max, keep fewer warm, or run callers in one place`},
		{"max for callers that share a place", perigee.Policy{Max: 1, Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"fra", "ams"}}, {From: []string{"sa"}, Run: []string{"fra"}}}}, ""},
		{"max and callers at a node", perigee.Policy{Max: 1, Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}, {From: []string{"sa"}, Run: []string{"node:fra-1"}}}}, ""},
		{"callers that overlap and agree", perigee.Policy{Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}, {From: []string{"fra"}, Run: []string{"ams", "wdc"}}}}, ""},
		{"prefer behind its group", perigee.Policy{Prefer: []string{"eu", "fra"}}, `prefer: "fra" is never reached, since "eu" before it contains it: put "fra" first, or remove it`},
		{"prefer before its group", perigee.Policy{Prefer: []string{"fra", "eu"}}, ""},
		{"prefer behind its regions", perigee.Policy{Residency: []string{"fra", "ams"}, Prefer: []string{"ams", "node:fra-1", "na", "fra", "eu"}},
			`prefer: "na" can never be used, given residency = ["fra", "ams"]: remove the entry`},
		{"prefer behind all that is left of it", perigee.Policy{Residency: []string{"fra", "ams", "wdc"}, Prefer: []string{"ams", "wdc", "node:fra-1", "fra", "eu"}},
			`prefer: "eu" is never reached, since all of it that is left, given residency = ["fra", "ams", "wdc"], is in "ams" and "fra" before it: remove the entry`},
		{"prefer behind what forbid leaves of it", perigee.Policy{Forbid: []string{"osa"}, Prefer: []string{"nrt", "oc", "wdc"}}, ""},
		{"prefer behind most of it", perigee.Policy{Residency: []string{"fra", "ams", "lon"}, Prefer: []string{"ams", "fra", "eu"}}, ""},
		{"prefer that a node may still be in", perigee.Policy{Pin: []string{"node:x-1"}, Prefer: []string{"fra", "eu"}}, ""},
		{"near itself", perigee.Policy{Near: "fn:hello"}, `near: "fn:hello" is the function itself, which is always near to itself: name another one, or remove the key`},
		{"near another", perigee.Policy{Near: "fn:hello-2"}, ""},
		{"near unreadable", perigee.Policy{Near: "db:5432"}, `near: "db:5432": want "client", "host:<name>:<port>" or "fn:<name>"`},
		{"survive in one region", perigee.Policy{Pin: []string{"fra"}, Survive: perigee.SurviveRegion},
			`survive = "region" needs holders in two regions, and pin = ["fra"] allow only fra: allow another region, or use survive = "zone"`},
		{"survive with one holder", perigee.Policy{Max: 1, Survive: perigee.SurviveZone}, `survive = "zone" needs 2 holders and max = 1: raise max or remove survive`},
		{"survive zone in one region", perigee.Policy{Pin: []string{"fra"}, Survive: perigee.SurviveZone}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := Check("hello", &tt.policy, perigee.BuiltinRegions()); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("Check:\n  %s\nwant:\n  %s", strings.ReplaceAll(got, "\n", "\n  "), strings.ReplaceAll(tt.want, "\n", "\n  "))
			}
		})
	}
}

// TestCheckPreferCovered: several groups together may have all of another.
func TestCheckPreferCovered(t *testing.T) {
	regions := perigee.NewRegions([]perigee.RegionInfo{
		{Code: "a", Groups: []string{"left", "all"}}, {Code: "b", Groups: []string{"right", "all"}}, {Code: "c", Groups: []string{"far", "all"}},
	})
	for _, tt := range []struct {
		policy perigee.Policy
		want   string
	}{
		{perigee.Policy{Prefer: []string{"left", "right", "all"}}, ""},
		{perigee.Policy{Prefer: []string{"left", "far", "right", "all"}}, `prefer: "all" is never reached, since all of it is in "left" and "far" and "right" before it: remove the entry`},
		{perigee.Policy{Forbid: []string{"far"}, Prefer: []string{"left", "right", "all"}}, `prefer: "all" is never reached, since all of it that is left, given forbid = ["far"], is in "left" and "right" before it: remove the entry`},
	} {
		got := ""
		if err := Check("hello", &tt.policy, regions); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("Check(%v) = %s\nwant %s", tt.policy.Prefer, got, tt.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy perigee.Policy
		want   string
	}{
		{"nothing asked", perigee.Policy{}, ""},
		{"forbid that counts", perigee.Policy{Residency: []string{"eu"}, Forbid: []string{"fra", "ams"}}, ""},
		{"nodes and labels", perigee.Policy{Pin: []string{"fra"}, Forbid: []string{"node:wdc-1", "label:disk=slow"}}, ""},
		{"forbid where a pinned node may be", perigee.Policy{Pin: []string{"node:x-1"}, Forbid: []string{"wdc"}}, ""},
		{"forbid outside the residency", perigee.Policy{Residency: []string{"eu"}, Forbid: []string{"fra", "wdc"}},
			`forbid: "wdc" forbids nothing, since nothing of it is left, given residency = ["eu"]: remove the entry, or keep it for when that changes`},
		{"forbid beside the pins", perigee.Policy{Residency: []string{"eu"}, Pin: []string{"fra", "ams"}, Forbid: []string{"lon"}},
			`forbid: "lon" forbids nothing, since nothing of it is left, given residency = ["eu"] and pin = ["fra", "ams"]: remove the entry, or keep it for when that changes`},
		{"forbid twice", perigee.Policy{Forbid: []string{"fra", "eu"}}, `forbid: "fra" forbids nothing that "eu" does not: remove one of them`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Check("hello", &tt.policy, perigee.BuiltinRegions()); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(Warnings(&tt.policy, perigee.BuiltinRegions()), "\n"); got != tt.want {
				t.Errorf("Warnings:\n  %s\nwant:\n  %s", got, tt.want)
			}
		})
	}
}

// One holder may be in two groups of which neither contains the other.
func TestCheckOverlappingGroups(t *testing.T) {
	regions := perigee.NewRegions([]perigee.RegionInfo{
		{Code: "a", Groups: []string{"left"}}, {Code: "b", Groups: []string{"left", "right"}}, {Code: "c", Groups: []string{"right"}},
	})
	if err := Check("hello", &perigee.Policy{Warm: map[string]int{"left": 1, "right": 1}, Max: 1}, regions); err != nil {
		t.Error(err)
	}
	if Check("hello", &perigee.Policy{Warm: map[string]int{"left": 3, "right": 1}, Max: 2}, regions) == nil {
		t.Error("max = 2 with three warm on the left passed")
	}
}

func TestCheckWithoutCatalogue(t *testing.T) {
	for _, p := range []perigee.Policy{
		{Residency: []string{"nowhere"}, Pin: []string{"fra"}},
		{Warm: map[string]int{"eu": 2, "fra": 1}, Max: 2}, // fra may be in eu
	} {
		if err := Check("hello", &p, nil); err != nil {
			t.Errorf("Check(%+v, nil) = %v", p, err)
		}
	}
	for _, p := range []perigee.Policy{
		{Forbid: []string{"label:x"}},
		{Pin: []string{"fra", "ams"}, Max: 1},
		{Warm: map[string]int{"eu": 2}, Max: 1},
	} {
		if err := Check("hello", &p, nil); err == nil {
			t.Errorf("Check(%+v, nil) found nothing", p)
		}
	}
	if err := Check("", nil, nil); err != nil {
		t.Errorf("Check(nil, nil) = %v", err)
	}
}
