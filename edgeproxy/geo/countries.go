package geo

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/perigee-edge/perigee"
)

// The table of countries by address is IPtoASN's (iptoasn.com), as a file in MaxMind's format; it is in the
// public domain (Open Data Commons PDDL 1.0). It says where networks are registered.
//
//go:embed fallback.mmdb.gz
var fallbackGz []byte

//go:embed countries.csv
var countriesCSV string

// fallback is the embedded table. It is opened when it is first needed, and takes 5 MB of memory from then on.
var fallback table

type table struct {
	once sync.Once
	db   flat
}

func (t *table) locate(addr netip.Addr) Place {
	t.once.Do(func() {
		raw, err := gunzip(fallbackGz)
		if err == nil {
			t.db.r, err = maxminddb.OpenBytes(raw)
		}
		if err != nil {
			panic(fmt.Sprintf("geo: embedded table of countries: %v", err)) // embedded at build time
		}
	})
	p, _ := t.db.find(addr) // what is embedded is not damaged: TestFallback
	return p
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// land is what the table says about a country.
type land struct {
	point  perigee.Point
	groups []string
}

// countries is the table, by code.
var countries = sync.OnceValue(func() map[string]land {
	r := csv.NewReader(strings.NewReader(countriesCSV))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		panic(fmt.Sprintf("geo: countries.csv: %v", err)) // embedded at build time
	}
	table := make(map[string]land, len(rows))
	for _, row := range rows[1:] {
		lat, errLat := strconv.ParseFloat(row[1], 64)
		lon, errLon := strconv.ParseFloat(row[2], 64)
		if errLat != nil || errLon != nil {
			panic("geo: bad coordinates of " + row[0])
		}
		table[row[0]] = land{perigee.Point{Lat: lat, Lon: lon}, strings.Fields(row[3])}
	}
	return table
})
