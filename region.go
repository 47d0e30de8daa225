package perigee

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// RegionInfo is what the cluster knows about a region.
type RegionInfo struct {
	Code    Region   `json:"code"`
	City    string   `json:"city"`
	Country string   `json:"country"` // ISO 3166-1 alpha-2
	Point   Point    `json:"point"`
	Groups  []string `json:"groups"` // names that mean this region among others, for example "eu"
}

// Regions is an immutable catalogue of regions, by code.
type Regions struct {
	byCode map[Region]RegionInfo
	groups map[string]bool
}

//go:embed regions.csv
var builtinCSV string

// BuiltinRegions returns the catalogue that every cluster starts with: the places of common
// metro codes. Groups are continents ("eu" is Europe, the continent, not the European Union; that is "eu27").
var BuiltinRegions = sync.OnceValue(func() *Regions {
	r := csv.NewReader(strings.NewReader(builtinCSV))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		panic(fmt.Sprintf("perigee: regions.csv: %v", err)) // embedded at build time
	}
	var infos []RegionInfo
	for _, row := range rows[1:] {
		lat, errLat := strconv.ParseFloat(row[3], 64)
		lon, errLon := strconv.ParseFloat(row[4], 64)
		if errLat != nil || errLon != nil {
			panic("perigee: regions.csv: bad coordinates of " + row[0])
		}
		infos = append(infos, RegionInfo{Region(row[0]), row[1], row[2], Point{lat, lon}, strings.Fields(row[5])})
	}
	return NewRegions(infos)
})

// Equal reports whether two catalogues say the same.
func (c *Regions) Equal(other *Regions) bool {
	if c == nil || other == nil {
		return c == other
	}
	return c == other || maps.EqualFunc(c.byCode, other.byCode, func(a, b RegionInfo) bool {
		return a.Code == b.Code && a.City == b.City && a.Country == b.Country && a.Point == b.Point && slices.Equal(a.Groups, b.Groups)
	})
}

// NewRegions builds a catalogue. A later entry replaces an earlier one of the same code.
func NewRegions(infos []RegionInfo) *Regions {
	c := &Regions{byCode: make(map[Region]RegionInfo, len(infos)), groups: map[string]bool{}}
	for _, info := range infos {
		c.byCode[info.Code] = info
	}
	for _, info := range c.byCode {
		for _, g := range info.Groups {
			c.groups[g] = true
		}
	}
	return c
}

// With returns a catalogue that has the given regions as well.
func (c *Regions) With(infos ...RegionInfo) *Regions {
	return NewRegions(append(slices.Collect(maps.Values(c.byCode)), infos...))
}

// Lookup returns what is known about a region.
func (c *Regions) Lookup(code Region) (RegionInfo, bool) {
	info, ok := c.byCode[code]
	return info, ok
}

// Groups returns the groups a region belongs to; none for an unknown region.
func (c *Regions) Groups(code Region) []string { return c.byCode[code].Groups }

// Known reports whether name is a region or a group.
func (c *Regions) Known(name string) bool {
	_, ok := c.byCode[Region(name)]
	return ok || c.groups[name]
}

// All returns the regions sorted by code.
func (c *Regions) All() []RegionInfo {
	return slices.SortedFunc(maps.Values(c.byCode), func(a, b RegionInfo) int {
		return strings.Compare(string(a.Code), string(b.Code))
	})
}
