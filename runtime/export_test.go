package runtime

// What tests of the child's limits need.
var (
	LimitSelf   = limitSelf
	WatchMemory = watchMemory
)

// Instrumented is above 1 under the race detector.
const Instrumented = instrumented
