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

// The depth counter: what all open calls together may weigh, in units of at most 1 KiB of the engine's stack. A
// guest begins with a portion of it and asks for each further one, so that the host sees its stack grow.
const (
	DepthPortion = 512
	MaxDepth     = 128 << 10
)

// weight is what a function takes from the depth counter: the most that its frame can be. Locals and operands
// all have a place in it if need be, of up to 16 bytes; two bytes of code make an operand, and a call as many
// more as it has results beyond the first.
func weight(locals uint64, body, results int) int64 {
	bytes := 64 + 16*int64(locals) + 8*int64(body) + 16*int64(results)
	return min((bytes+1023)/1024, MaxDepth)
}
