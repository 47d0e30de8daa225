package node

import (
	"sync/atomic"
	"time"
)

// service is what the requests of a revision take here: their median, in microseconds. Each request moves
// it by a part of itself towards its own time, up or down; where as many are above as below it stands
// still. A few that take very long don't move it far, as they would an average.
type service struct{ us atomic.Uint32 }

const longestService = 10 * time.Minute

// add counts a request. Of two at the same moment one may be lost.
func (s *service) add(took time.Duration) {
	us := uint32(max(1, min(took, longestService).Microseconds()))
	old := s.us.Load()
	step := old/16 + 1
	switch {
	case old == 0:
		s.us.Store(us)
	case us > old:
		s.us.Store(min(us, old+step))
	case us < old:
		s.us.Store(max(us, old-min(step, old-1)))
	}
}
