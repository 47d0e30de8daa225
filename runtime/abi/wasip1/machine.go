package wasip1

import (
	"crypto/rand"
	"math"
	goruntime "runtime"
	"time"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// argsGet (argv, buf): a pointer for each argument, and the arguments, each ended by a zero byte.
func argsGet(s *System, m api.Memory, p []uint64) errno { return putStrings(m, s.config.Args, p) }

// argsSizesGet (result count, result size).
func argsSizesGet(s *System, m api.Memory, p []uint64) errno { return putSizes(m, s.config.Args, p) }

// environGet is argsGet for the environment.
func environGet(s *System, m api.Memory, p []uint64) errno { return putStrings(m, s.config.Env, p) }

// environSizesGet is argsSizesGet for the environment.
func environSizesGet(s *System, m api.Memory, p []uint64) errno { return putSizes(m, s.config.Env, p) }

func putSizes(m api.Memory, list []string, p []uint64) errno {
	size := 0
	for _, text := range list {
		size += len(text) + 1
	}
	if !m.WriteUint32Le(uint32(p[0]), uint32(len(list))) || !m.WriteUint32Le(uint32(p[1]), uint32(size)) {
		return fault
	}
	return success
}

func putStrings(m api.Memory, list []string, p []uint64) errno {
	pointer, at := uint32(p[0]), uint32(p[1])
	for i, text := range list {
		b, ok := m.Read(at, uint32(len(text))+1)
		if !ok || uint64(pointer)+4*uint64(i) > math.MaxUint32 || !m.WriteUint32Le(pointer+4*uint32(i), at) {
			return fault
		}
		b[copy(b, text)] = 0
		at += uint32(len(b))
	}
	return success
}

// The clocks. What a guest has used of a processor is not known to the host in time, so the clocks of
// that are not supported; C libraries use the monotonic clock in their place.
const (
	realtime  = 0
	monotonic = 1
)

// epoch is when the monotonic clock was nearly 0. It is the same for all: a guest that is continued from
// an image with another System must not see the time go back.
var epoch = time.Now().Add(-time.Second)

func now(clock uint32) (ns int64, ok bool) {
	switch clock {
	case realtime:
		return time.Now().UnixNano(), true
	case monotonic:
		return int64(time.Since(epoch)), true
	}
	return 0, false
}

// clockResGet (id, result): both clocks count nanoseconds.
func clockResGet(_ *System, m api.Memory, p []uint64) errno {
	if uint32(p[0]) > monotonic {
		return inval
	}
	if !m.WriteUint64Le(uint32(p[1]), 1) {
		return fault
	}
	return success
}

// clockTimeGet (id, precision, result). It is always as precise as it can be.
func clockTimeGet(_ *System, m api.Memory, p []uint64) errno {
	t, ok := now(uint32(p[0]))
	if !ok {
		return inval
	}
	if !m.WriteUint64Le(uint32(p[2]), uint64(t)) {
		return fault
	}
	return success
}

// randomChunk is how much is made between two looks at whether the request is over.
const randomChunk = 64 << 10

// randomGet (buf, len) is fresh for each call.
func randomGet(s *System, m api.Memory, p []uint64) errno {
	b, ok := m.Read(uint32(p[0]), uint32(p[1]))
	if !ok {
		return fault
	}
	for len(b) > randomChunk {
		_, _ = rand.Read(b[:randomChunk]) // it never fails
		b = b[randomChunk:]
		s.check()
	}
	_, _ = rand.Read(b)
	return success
}

// schedYield lets others run.
func schedYield(*System, api.Memory, []uint64) errno {
	goruntime.Gosched()
	return success
}

// procExit (code) unwinds the guest. The module is not closed, so that its instance can be restored.
func procExit(_ *System, _ api.Memory, p []uint64) errno {
	panic(sys.NewExitError(uint32(p[0])))
}

// procRaise (signal): there are no signals.
func procRaise(*System, api.Memory, []uint64) errno { return nosys }

// sockNone (fd, ...) stands for all functions of sockets: no descriptor is one.
func sockNone(s *System, _ api.Memory, p []uint64) errno {
	if s.at(p[0]) == nil {
		return badf
	}
	return notsock
}
