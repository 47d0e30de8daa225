package placement

import (
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	// sameRegionRTT is the estimate between two machines of one region.
	sameRegionRTT = 300 * time.Microsecond

	// farthestRTT is the estimate when one end's place is unknown: the round trip to the other side
	// of the earth. Unknown nodes are not preferred by mistake.
	farthestRTT = 302 * time.Millisecond
)

// estimateRTT guesses the round trip between two regions from their coordinates.
func estimateRTT(regions *perigee.Regions, a, b perigee.Region) time.Duration {
	if a == b {
		return sameRegionRTT
	}
	from, okFrom := regions.Lookup(a)
	to, okTo := regions.Lookup(b)
	if !okFrom || !okTo {
		return farthestRTT
	}
	return from.Point.EstimateRTT(to.Point)
}

// estimates remembers the estimates of one request, whose origin does not change: nodes are many and
// regions few. Two regions that share a slot cost time, nothing else.
type estimates [32]struct {
	region perigee.Region
	rtt    time.Duration // 0 = empty
}

func (e *estimates) to(region, origin perigee.Region, regions *perigee.Regions) time.Duration {
	slot := uint32(len(region))
	for i := range len(region) {
		slot = slot*31 + uint32(region[i])
	}
	m := &e[slot%uint32(len(e))]
	if m.rtt == 0 || m.region != region {
		m.region, m.rtt = region, estimateRTT(regions, origin, region)
	}
	return m.rtt
}

// milliseconds writes a round trip for people: "91 ms", "2.3 ms".
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 9.95 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
