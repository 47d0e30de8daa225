package perigee

import (
	"math"
	"time"
)

// Point is a place on the earth, in degrees; south and west are negative.
type Point struct {
	Lat float64 `json:"lat"`
	Lon float64 `json:"lon"`
}

const (
	earthRadiusKm = 6371.0088 // mean radius (IUGG)

	// Light in fibre covers about 200 km a millisecond; published round trips between cities run
	// about 1.5 times that bound, since cables do not follow great circles.
	fibreKmPerMs  = 200.0
	fibreDetour   = 1.5
	lastMileRTTMs = 2.0
)

// DistanceKm returns the great-circle distance to q in kilometres (haversine formula).
func (p Point) DistanceKm(q Point) float64 {
	const rad = math.Pi / 180
	dLat, dLon := (q.Lat-p.Lat)*rad/2, (q.Lon-p.Lon)*rad/2
	h := math.Sin(dLat)*math.Sin(dLat) + math.Cos(p.Lat*rad)*math.Cos(q.Lat*rad)*math.Sin(dLon)*math.Sin(dLon)
	return 2 * earthRadiusKm * math.Asin(math.Sqrt(min(1, h)))
}

// EstimateRTT guesses the network round trip to q from the distance alone. It serves until the
// first measurement.
func (p Point) EstimateRTT(q Point) time.Duration {
	return time.Duration(lastMileRTTMs*float64(time.Millisecond)) + FibreRTT(p.DistanceKm(q))
}

// FibreRTT guesses the round trip over a distance in kilometres, without the last mile.
func FibreRTT(km float64) time.Duration {
	return time.Duration(2 * km * fibreDetour / fibreKmPerMs * float64(time.Millisecond))
}
