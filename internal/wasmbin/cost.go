package wasmbin

// What things cost, in units of fuel. An instruction costs one; what is free leaves no machine code.
const (
	costInstruction = 1
	costCall        = 4    // a frame is made
	costGrow        = 1024 // memory.grow: the host is asked
	bulkShift       = 3    // bulk operations cost one unit for 1<<bulkShift bytes or entries

	bulkChunk = 1 << 20 // bytes that a bulk operation on memory does at a time: some hundred microseconds

	flushAt  = 1000 // units that a loop may add up before it pays
	freeLeaf = 64   // what a function without loops and calls may cost that does not look whether there is fuel
)

// The depth counter: what all open calls together may weigh. A unit stands for at most 8 KiB of the
// engine's stack, in practice for some hundred bytes, so the stack of a guest is bounded by 128 MiB where
// the engine would go to 400 MB, and common programs nest 16,384 calls.
const maxDepth = 16384

// weight is what a function takes from the depth counter: locals and operands all have a place in its
// frame if need be, and only many instructions make many operands.
func weight(locals uint64, body int) int64 {
	return min(1+int64(locals)/8+int64(body)/2048, maxDepth)
}
