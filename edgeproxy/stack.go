package edgeproxy

// requestStack is what a request needs of its goroutine's stack, and a little more.
const requestStack = 12 << 10

// growStack makes room on the stack of the goroutine that HTTP/2 and HTTP/3 start for each request. Such a stack
// begins small, and the runtime doubles it whenever it is full: it copies it and mends every frame on it, which was
// a fifth of the processor time of a request that costs little. One frame of that size has it do so once, while
// there is little to copy: a function makes room for its whole frame when it is called. All callers say false, so
// that nothing clears that room.
//
//go:noinline
func growStack(use bool) (sum byte) {
	if use {
		var room [requestStack]byte
		for i := range room {
			sum += room[i] + byte(i)
		}
	}
	return sum
}
