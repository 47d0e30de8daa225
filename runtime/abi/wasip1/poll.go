package wasip1

import (
	"math"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// The records of poll_oneoff.
const (
	subscriptionSize = 48
	eventSize        = 32
	maxSubscriptions = 4096
)

// The types of events.
const (
	eventClock = iota
	eventRead
	eventWrite
)

// pollOneoff (in, out, nsubscriptions, result nevents) waits until one of the subscriptions has
// happened, and writes an event for each that has.
//
// Descriptors are always ready, as POSIX has it for files: the host does not know what a client will
// send, so a read of standard input may still wait. It ends with the request, as all do.
func pollOneoff(s *System, m api.Memory, p []uint64) errno {
	n := uint32(p[2])
	if n == 0 || n > maxSubscriptions {
		return inval
	}
	in, ok := m.Read(uint32(p[0]), n*subscriptionSize)
	if !ok {
		return fault
	}
	out, ok := m.Read(uint32(p[1]), n*eventSize)
	if !ok || !m.WriteUint32Le(uint32(p[3]), 0) {
		return fault
	}
	var start times
	start[realtime], _ = now(realtime)
	start[monotonic], _ = now(monotonic)
	wait := int64(math.MaxInt64)
	for i := range n {
		sub := in[i*subscriptionSize:][:subscriptionSize]
		switch sub[8] {
		case eventClock:
			left, _ := start.until(sub)
			wait = min(wait, left)
		case eventRead, eventWrite:
			wait = 0
		default:
			return inval
		}
	}
	if wait > 0 {
		s.config.Sleep(time.Duration(wait))
		s.check()
	}
	events := uint32(0)
	for i := range n {
		sub := in[i*subscriptionSize:][:subscriptionSize]
		if s.event(out[events*eventSize:][:eventSize], sub, &start, wait) {
			events++
		}
	}
	if !m.WriteUint32Le(uint32(p[3]), events) {
		return fault
	}
	return success
}

// times is what the clocks showed when the guest began to wait.
type times [monotonic + 1]int64

// until returns how many nanoseconds a subscription to a clock has to wait: 0 if it is not valid.
func (t *times) until(sub []byte) (int64, errno) {
	const absolute = 1
	clock, timeout, flags := le.Uint32(sub[16:]), le.Uint64(sub[24:]), le.Uint16(sub[40:])
	if clock > monotonic || flags&^absolute != 0 {
		return 0, inval
	}
	left := int64(min(timeout, math.MaxInt64))
	if flags&absolute != 0 {
		left = max(0, left-t[clock])
	}
	return left, success
}

// event writes the event of a subscription, if it has happened after a wait.
func (s *System) event(out, sub []byte, start *times, waited int64) bool {
	var e errno
	var bytes uint64
	user, tag := le.Uint64(sub), sub[8]
	switch tag {
	case eventClock:
		var left int64
		if left, e = start.until(sub); left > waited {
			return false
		}
	case eventRead:
		bytes, e = s.readable(uint64(le.Uint32(sub[16:])))
	case eventWrite:
		if d, code := s.need(uint64(le.Uint32(sub[16:])), rightPoll); code != success {
			e = code
		} else if d.rights&rightWrite == 0 {
			e = badf
		} else {
			bytes = maxTransfer
		}
	default:
		return false // the guest let the two lists overlap
	}
	clear(out)
	le.PutUint64(out, user)
	le.PutUint16(out[8:], uint16(e))
	out[10] = tag
	le.PutUint64(out[16:], bytes)
	return true
}

// readable returns how many bytes a descriptor has: for a stream at least one, since that is not known.
func (s *System) readable(fd uint64) (uint64, errno) {
	d, e := s.need(fd, rightPoll)
	switch {
	case e != success:
		return 0, e
	case d.rights&rightRead == 0:
		return 0, badf
	case d.kind == file:
		return uint64(max(0, d.info.Size()-d.offset)), success
	}
	return 1, success
}
