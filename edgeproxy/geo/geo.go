// Package geo says where an address is: in which country, and about where on the earth.
//
// It asks the operator's databases first, in their order, and the embedded table of countries when
// none of them knows. A database is a file in MaxMind's format (MMDB 2.0) with MaxMind's fields
// (GeoIP2, GeoLite2, DB-IP) or with flat ones (country_code, latitude, longitude). It is read into
// memory whole, since a mapped file that somebody shortens would end the process, and replaced as a
// whole when the file changes; a file that can't be used is refused while the old one serves.
//
// Addresses are not people: a database is wrong for a few in a hundred, the embedded table, which
// says where an address is registered, more often. The package decides nothing and sends nothing.
package geo

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
)

// Config says which databases a Locator asks. It is not changed after New.
type Config struct {
	Databases []string      // paths, asked in this order; none = only the embedded table
	Every     time.Duration // between looks at the files; 0 = 10 s
	Logger    *slog.Logger  // nil = slog.Default()
}

const defaultEvery = 10 * time.Second

// Sources of a Place.
const (
	SourceDatabase = "database" // one of the operator's
	SourceCountry  = "country"  // the middle of a country
)

// Place is where an address is. The zero Place is nowhere known.
type Place struct {
	Country  string         // ISO 3166-1 alpha-2, upper case; "" = not known
	Point    *perigee.Point // nil = not known; must not be changed
	RadiusKm float64        // how far off Point may be, as the database says; 0 = not said
	Source   string         // of the Point
}

// Locator finds places. Its methods are safe for concurrent use.
type Locator struct {
	every   time.Duration
	files   []*file
	changes atomic.Uint64 // how often a file was replaced
	cache   cache
}

// New reads the databases. One that can't be read is reported, and tried again while Run runs: a
// node without it still knows countries. It starts nothing.
func New(conf Config) *Locator {
	if conf.Every == 0 {
		conf.Every = defaultEvery
	}
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	l := &Locator{every: conf.Every, cache: cache{seed: maphash.MakeSeed()}}
	for _, path := range conf.Databases {
		f := &file{path: path, logger: conf.Logger}
		f.refresh()
		l.files = append(l.files, f)
	}
	return l
}

// Run looks at the files until ctx ends and takes those that changed.
func (l *Locator) Run(ctx context.Context) error {
	if len(l.files) == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, f := range l.files {
				if f.refresh() {
					l.changes.Add(1)
				}
			}
		}
	}
}

// Locate returns where an address is. Private and other special addresses are nowhere, unless a
// database of the operator's lists them.
func (l *Locator) Locate(addr netip.Addr) Place {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return Place{}
	}
	slot, since := l.cache.slot(addr), l.changes.Load()
	if f := slot.Load(); f != nil && f.addr == addr && f.since == since {
		return f.place
	}
	p := l.find(addr)
	slot.Store(&found{addr: addr, place: p, since: since})
	return p
}

// Client returns the country of an address, and the region of the catalogue that it counts as; see
// Place.Region. What is not known is empty.
func (l *Locator) Client(addr netip.Addr, regions *perigee.Regions) (country string, region perigee.Region) {
	p := l.Locate(addr)
	slot, since := l.cache.slot(addr), l.changes.Load()
	f := slot.Load()
	if f != nil && f.addr == addr && f.since == since && f.regions == regions {
		return f.place.Country, f.region
	}
	region, _ = p.Region(regions)
	slot.Store(&found{addr, p, since, regions, region})
	return p.Country, region
}

// find asks the databases.
func (l *Locator) find(addr netip.Addr) (p Place) {
	for _, f := range l.files {
		p = p.merge(f.locate(addr))
		if p.Country != "" && p.Point != nil {
			return p
		}
	}
	if p.Country == "" && p.Point == nil && public(addr) {
		p.Country = fallback.locate(addr).Country
	}
	if c, ok := countries()[p.Country]; ok && p.Point == nil {
		p.Point, p.Source = &c.point, SourceCountry
	}
	return p
}

// merge fills in what p lacks.
func (p Place) merge(q Place) Place {
	if p.Country == "" {
		p.Country = q.Country
	}
	if p.Point == nil && q.Point != nil {
		p.Point, p.RadiusKm, p.Source = q.Point, q.RadiusKm, SourceDatabase
	}
	return p
}

// public reports whether the table of countries may know the address.
func public(addr netip.Addr) bool { return addr.IsGlobalUnicast() && !addr.IsPrivate() }

// Groups returns the names of groups of regions that the country belongs to, such as "eu" and
// "eu27"; none for a country that is not known. The result must not be changed.
func Groups(country string) []string { return countries()[country].groups }
