package geo

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oschwald/geoip2-golang/v2"
	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/perigee-edge/perigee"
)

// maxFile bounds what a database may take of memory. The largest known today have 130 MB.
const maxFile = 512 << 20

// database finds addresses in one open file.
type database interface {
	// find returns the zero Place for an address that is not listed.
	find(netip.Addr) (Place, error)
}

// file is a path and what was last read from it. refresh is for one goroutine at a time, locate for
// any number.
type file struct {
	path   string
	logger *slog.Logger
	seen   stamp
	open   atomic.Value // database
}

// stamp tells two states of a file apart.
type stamp struct {
	modified time.Time
	size     int64
	missing  bool
}

func (f *file) locate(addr netip.Addr) Place {
	db, ok := f.open.Load().(holder)
	if !ok {
		return Place{}
	}
	p, err := db.find(addr)
	if err != nil {
		return Place{} // damaged here; elsewhere it may be right
	}
	return p
}

// holder lets different databases be stored in one atomic.Value.
type holder struct{ database }

// refresh reads the file if it has changed since it was read last. A file that changes under the
// reader's hands is read again next time. It returns whether another database serves now.
func (f *file) refresh() bool {
	info, err := os.Stat(f.path)
	now := stamp{missing: errors.Is(err, fs.ErrNotExist)}
	if err == nil {
		now = stamp{modified: info.ModTime(), size: info.Size()}
	}
	if now == f.seen {
		return false
	}
	f.seen = now
	db, built, err := readDatabase(f.path, now.size)
	if err != nil {
		f.logger.Warn("geographic database not used: the one before serves on, or the table of countries", "path", f.path, "err", err)
		return false
	}
	f.open.Store(holder{db})
	f.logger.Info("geographic database in use", "path", f.path, "built", built.UTC().Format(time.DateOnly))
	return true
}

func readDatabase(path string, size int64) (database, time.Time, error) {
	if size > maxFile {
		return nil, time.Time{}, fmt.Errorf("read database %s: it has %d MiB: at most %d are read", path, size>>20, maxFile>>20)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read database: %w", err)
	}
	db, built, err := openDatabase(raw)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read database %s: %w", path, err)
	}
	return db, built, nil
}

// openDatabase finds out what fields a database has, and reads a part of it, since the reader does not
// look at the whole when it opens one. A file that was cut off has lost its end, which is read first.
func openDatabase(raw []byte) (database, time.Time, error) {
	r, err := maxminddb.OpenBytes(raw)
	if err != nil {
		return nil, time.Time{}, err
	}
	g, err := geoip2.OpenBytes(raw)
	if err != nil {
		return nil, time.Time{}, err
	}
	db := database(flat{r})
	if _, err := g.City(netip.IPv6Loopback()); err == nil {
		db = city{g}
	} else if _, err := g.Country(netip.IPv6Loopback()); err == nil {
		db = country{g}
	}
	if err := sample(r, db); err != nil {
		return nil, time.Time{}, err
	}
	return db, r.Metadata.BuildTime(), nil
}

// maxSample is how many networks of a database are read before it serves.
const maxSample = 20_000

// sample reads the first networks of a database. It must know a country for one of them.
func sample(r *maxminddb.Reader, db database) error {
	n, known := 0, false
	for res := range r.Networks() {
		if err := res.Err(); err != nil {
			return fmt.Errorf("the file is damaged: %w", err)
		}
		p, err := db.find(res.Prefix().Addr())
		if err != nil {
			return fmt.Errorf("the file is damaged: %w", err)
		}
		known = known || p.Country != ""
		if n++; n == maxSample {
			break
		}
	}
	if !known {
		return fmt.Errorf("it is a database of type %q: want one of cities or countries, with MaxMind's fields or with country_code", r.Metadata.DatabaseType)
	}
	return nil
}

// city reads databases with MaxMind's fields and coordinates.
type city struct{ r *geoip2.Reader }

func (db city) find(addr netip.Addr) (Place, error) {
	rec, err := db.r.City(addr)
	if err != nil {
		return Place{}, err
	}
	p := Place{Country: rec.Country.ISOCode, RadiusKm: float64(rec.Location.AccuracyRadius)}
	if rec.Location.HasCoordinates() {
		p.Point = point(*rec.Location.Latitude, *rec.Location.Longitude)
	}
	return p, nil
}

// country reads databases with MaxMind's fields and no coordinates.
type country struct{ r *geoip2.Reader }

func (db country) find(addr netip.Addr) (Place, error) {
	rec, err := db.r.Country(addr)
	if err != nil {
		return Place{}, err
	}
	return Place{Country: rec.Country.ISOCode}, nil
}

// flat reads databases whose fields are at the top.
type flat struct{ r *maxminddb.Reader }

type flatRecord struct {
	Country string   `maxminddb:"country_code"`
	Lat     *float64 `maxminddb:"latitude"`
	Lon     *float64 `maxminddb:"longitude"`
}

func (db flat) find(addr netip.Addr) (Place, error) {
	var rec flatRecord
	if err := db.r.Lookup(addr).Decode(&rec); err != nil {
		return Place{}, err
	}
	p := Place{Country: strings.ToUpper(rec.Country)}
	if rec.Lat != nil && rec.Lon != nil {
		p.Point = point(*rec.Lat, *rec.Lon)
	}
	return p, nil
}

// point returns coordinates that are on the earth; nil for others.
func point(lat, lon float64) *perigee.Point {
	if !(lat >= -90 && lat <= 90 && lon >= -180 && lon <= 180) {
		return nil
	}
	return &perigee.Point{Lat: lat, Lon: lon}
}
