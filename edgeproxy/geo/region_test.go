package geo

import (
	"testing"

	"github.com/perigee-edge/perigee"
)

func TestRegion(t *testing.T) {
	catalogue := perigee.BuiltinRegions()
	for _, c := range []struct {
		what, country string
		at            perigee.Point
		want          perigee.Region
	}{
		{"Berlin", "DE", perigee.Point{Lat: 52.5, Lon: 13.4}, "fra"},
		{"Salzburg, a country without a region", "AT", perigee.Point{Lat: 47.8, Lon: 13.0}, "mxp"},
		{"Seattle", "US", perigee.Point{Lat: 47.6, Lon: -122.3}, "sea"},
		{"Vancouver, nearer to Seattle", "CA", perigee.Point{Lat: 49.3, Lon: -123.1}, "tor"},
		{"Tangier, nearest to Madrid", "MA", perigee.Point{Lat: 35.8, Lon: -5.8}, "jnb"},
		{"nowhere", "", perigee.Point{}, ""},
		{"no country", "XX", perigee.Point{}, ""},
	} {
		got, ok := Place{Country: c.country, Point: &c.at}.Region(catalogue)
		if got != c.want && !(c.want == "jnb" && catalogueGroup(catalogue, got, "af")) || ok != (c.want != "") {
			t.Errorf("%s: region %q, %t, want %q", c.what, got, ok, c.want)
		}
	}
	if got, ok := (Place{Country: "DE"}).Region(catalogue); ok {
		t.Errorf("a place without a point is in region %q", got)
	}
	if got, ok := (Place{Country: "DE", Point: &perigee.Point{}}).Region(perigee.NewRegions(nil)); ok {
		t.Errorf("a catalogue without regions has %q", got)
	}
}

func catalogueGroup(c *perigee.Regions, code perigee.Region, group string) bool {
	for _, g := range c.Groups(code) {
		if g == group {
			return true
		}
	}
	return false
}

// TestRegionKeepsGroups: wherever a client is, the region that it counts as is in the client's groups and no others.
func TestRegionKeepsGroups(t *testing.T) {
	catalogue := perigee.BuiltinRegions()
	for code, c := range countries() {
		region, ok := Place{Country: code, Point: &c.point}.Region(catalogue)
		if !ok {
			continue
		}
		for _, g := range []string{"eu", "eu27", "us", "na", "sa", "as", "af", "oc", "me"} {
			in := false
			for _, h := range c.groups {
				in = in || h == g
			}
			if in != catalogueGroup(catalogue, region, g) {
				t.Errorf("%s counts as %s; group %s: client %t", code, region, g, in)
			}
		}
	}
}
