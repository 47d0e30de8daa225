// Package wan puts distance between endpoints that share a machine. Its table has published
// round-trip times between regions; its network wraps the UDP sockets of one process and delays,
// loses or blocks what they send to each other, so that a cluster on one laptop behaves like one
// that spans the world. It serves development and tests; no production path goes through it. It
// models neither bandwidth nor jitter.
//
// Network.Wrap starts one goroutine for each wrapped socket, and closing the socket ends it.
// Nothing is written to disk or added to packets.
package wan

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// sameRegionRTT is the round trip between two machines of one region.
const sameRegionRTT = 300 * time.Microsecond

// Table holds round-trip times between regions. It is immutable.
type Table struct {
	rtt map[pair]time.Duration
}

type pair struct{ from, to perigee.Region }

//go:embed wan-rtt.csv
var publishedCSV string

// Published returns the round-trip times of wan-rtt.csv; the file names its source.
var Published = sync.OnceValue(func() *Table {
	t, err := parseTable(publishedCSV)
	if err != nil {
		panic(fmt.Sprintf("wan: wan-rtt.csv: %v", err)) // embedded at build time
	}
	return t
})

func parseTable(text string) (*Table, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("no header")
	}
	t := &Table{rtt: map[pair]time.Duration{}}
	for _, row := range rows[1:] {
		for i, cell := range row[1:] {
			from, to := perigee.Region(row[0]), perigee.Region(rows[0][i+1])
			ms, err := strconv.ParseFloat(cell, 64)
			if err != nil || ms <= 0 {
				return nil, fmt.Errorf("from %s to %s: %q: want a time in ms", from, to, cell)
			}
			t.rtt[pair{from, to}] = time.Duration(ms * float64(time.Millisecond))
		}
	}
	return t, nil
}

// RTT returns the round-trip time from region a at pa to region b at pb: 0.3 ms within a region,
// else the published figure, else an estimate from the great-circle distance. The published
// figures of the two directions may differ by some milliseconds.
func (t *Table) RTT(a, b perigee.Region, pa, pb perigee.Point) time.Duration {
	if a == b {
		return sameRegionRTT
	}
	if d, ok := t.rtt[pair{a, b}]; ok {
		return d
	}
	return pa.EstimateRTT(pb)
}

// Between returns the round-trip times between the regions of a catalogue, as New wants them.
// Regions that the catalogue does not know are taken to be at 0°N 0°E.
func (t *Table) Between(regions *perigee.Regions) func(from, to perigee.Region) time.Duration {
	return func(from, to perigee.Region) time.Duration {
		a, _ := regions.Lookup(from)
		b, _ := regions.Lookup(to)
		return t.RTT(from, to, a.Point, b.Point)
	}
}
