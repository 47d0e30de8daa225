package wan

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestPublishedFigures(t *testing.T) {
	regions := perigee.BuiltinRegions()
	rtt := Published().Between(regions)
	for _, tc := range []struct {
		from, to perigee.Region
		want     time.Duration
	}{
		{"fra", "wdc", 91 * time.Millisecond},
		{"wdc", "syd", 214 * time.Millisecond},
		{"fra", "syd", 250 * time.Millisecond},
		{"syd", "fra", 249 * time.Millisecond}, // the two directions differ in the source
		{"sao", "syd", 328 * time.Millisecond},
		{"tor", "dal", 34 * time.Millisecond},
		{"fra", "fra", 300 * time.Microsecond}, // not the 2 ms of the diagonal, which is between zones
		{"nix", "nix", 300 * time.Microsecond},
	} {
		if got := rtt(tc.from, tc.to); got != tc.want {
			t.Errorf("%s to %s: %v, want %v", tc.from, tc.to, got, tc.want)
		}
	}
	if got := len(Published().rtt); got != 100 {
		t.Errorf("%d published figures, want 10 x 10", got)
	}
}

func TestPublishedFiguresArePossible(t *testing.T) {
	regions := perigee.BuiltinRegions()
	for p, d := range Published().rtt {
		a, okA := regions.Lookup(p.from)
		b, okB := regions.Lookup(p.to)
		if !okA || !okB {
			t.Errorf("%s or %s is not a built-in region", p.from, p.to)
			continue
		}
		light := time.Duration(2 * a.Point.DistanceKm(b.Point) / 200 * float64(time.Millisecond))
		if d < light {
			t.Errorf("%s to %s: %v is faster than light in fibre (%v): a row or column is misplaced", p.from, p.to, d, light)
		}
		if back := Published().rtt[pair{p.to, p.from}]; math.Abs((d - back).Seconds()) > 0.005 {
			t.Errorf("%s to %s: %v there, %v back: a row or column is misplaced", p.from, p.to, d, back)
		}
	}
}

func TestEstimateWhereNothingIsPublished(t *testing.T) {
	regions := perigee.BuiltinRegions()
	fra, _ := regions.Lookup("fra")
	waw, _ := regions.Lookup("waw")
	got := Published().RTT("fra", "waw", fra.Point, waw.Point)
	if want := fra.Point.EstimateRTT(waw.Point); got != want || got < 10*time.Millisecond || got > 25*time.Millisecond {
		t.Errorf("fra to waw: %v, want the estimate %v, between 10 and 25 ms", got, want)
	}
}

func TestParseTableRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"empty", "", "no header"},
		{"only comment", "# nothing\n", "no header"},
		{"short row", "region,a,b\na,1\n", "wrong number of fields"},
		{"no number", "region,a\na,x\n", `from a to a: "x": want a time in ms`},
		{"zero", "region,a\na,0\n", "want a time in ms"},
	} {
		if _, err := parseTable(tc.text); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
}

func ExampleTable_Between() {
	rtt := Published().Between(perigee.BuiltinRegions())
	fmt.Println(rtt("fra", "wdc"))
	fmt.Println(rtt("fra", "fra"))
	// Output:
	// 91ms
	// 300µs
}
