package geo

import (
	"slices"

	"github.com/perigee-edge/perigee"
)

// Region returns the region of a catalogue that a place counts as: the nearest one in the same
// country; without one there, the nearest in a country of the same groups. So a rule about a group holds for
// clients exactly as far as it holds for their country: whoever is in Tangier is nearest to
// Madrid, and still not in Europe. It returns false where the place is not known, or the catalogue
// has no such region.
func (p Place) Region(regions *perigee.Regions) (perigee.Region, bool) {
	home, known := countries()[p.Country]
	if !known || p.Point == nil {
		return "", false
	}
	best, near := perigee.Region(""), 0.0
	abroad := true // best is in another country
	for _, r := range regions.All() {
		foreign := r.Country != p.Country
		if foreign && (!abroad || !slices.Equal(Groups(r.Country), home.groups)) {
			continue
		}
		km := p.Point.DistanceKm(r.Point)
		if best == "" || abroad && !foreign || km < near {
			best, near, abroad = r.Code, km, foreign
		}
	}
	return best, best != ""
}
