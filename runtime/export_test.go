package runtime

// What tests of the child's limits need.
var (
	LimitSelf   = limitSelf
	WatchMemory = watchMemory
)

// Instrumented is above 1 under the race detector.
const Instrumented = instrumented

// NoReset makes r drop every instance after its request: the way that is always right.
func NoReset(r *Runtime) { r.restore = func(*slot) bool { return false } }

// FalseReset makes r use instances again as their requests left them: what tests of isolation must see.
func FalseReset(r *Runtime) {
	r.restore = func(s *slot) bool { return s.image.ready && !s.mod.IsClosed() }
}

// NoImages makes r start the guest for each request.
func NoImages(r *Runtime) { r.images = false }
