package wasmbin

// A limit bounds one number that a module can choose.
type limit struct {
	max  uint64
	rule string
	what string // what is counted
	why  string
}

// The limits. "Seen" is the most among what compilers make today: Go with net/http and much more of
// its library, SpiderMonkey for WASI in four builds (one of them not optimised), CRuby, SQLite, Rust
// and C. The child process that compiles has limits of its own for what these let through.
var (
	maxTypes       = limit{10_000, "max-types", "types", "each call site is held against them (seen: 213)"}
	maxParams      = limit{1_000, "max-params", "parameters of a function", "each call copies them (seen: 32)"}
	maxResults     = limit{16, "max-results", "results of a function", "two bytes of code make that many values (seen: 1)"}
	maxBlockParams = limit{16, "max-block-params", "parameters of a block", "three bytes of code pass them on (seen: 0)"}
	maxImports     = limit{2_000, "max-imports", "imports", "each is resolved for every new instance (seen: 196)"}
	maxExports     = limit{10_000, "max-exports", "exports", "each is kept by name (seen: 241)"}
	maxFunctions   = limit{200_000, "max-functions", "functions", "each costs the engine memory beyond its code (seen: 54,993)"}
	maxTables      = limit{4, "max-tables", "tables", "each is allocated for every new instance (seen: 1)"}
	maxTableSize   = limit{100_000, "max-table-size", "table entries", "they are allocated for every new instance, outside the memory limit (seen: 11,764)"}
	maxPages       = limit{65_536, "max-memory", "pages of memory", "a 32-bit memory has no more"}
	maxGlobals     = limit{10_000, "max-globals", "globals", "they are allocated for every new instance (seen: 59)"}
	maxElements    = limit{10_000, "max-element-segments", "element segments", "each is applied to every new instance (seen: 1)"}
	maxElemItems   = limit{200_000, "max-elements", "items of element segments", "each is allocated for every new instance (seen: 11,764)"}
	maxData        = limit{150_000, "max-data-segments", "data segments", "each is applied to every new instance (seen: 100,000, the most that Go's linker makes)"}
	maxName        = limit{2_000, "max-name", "bytes of a name", "names are kept and shown (seen: under 300)"}
	maxBody        = limit{512 << 10, "max-body", "bytes in one function", "compile time grows faster than a function (seen: 171,628)"}
	maxLocals      = limit{20_000, "max-locals", "locals of one function", "three bytes can claim four billion (seen: 11,456)"}
	maxNesting     = limit{8_000, "max-nesting", "blocks within blocks", "compile time is quadratic in the depth (seen: 3,349; Go needs one per 80 bytes of a function)"}
	maxTargets     = limit{16_000, "max-br-table", "targets of one br_table", "compile time is quadratic in them (seen: 1,144; Go needs two per block)"}
	maxWork        = limit{8_000_000, "max-work", "blocks times locals in one function", "compile time follows it: the engine tracks each local through each block (seen: 4,522,550)"}
)

// maxAllLocals bounds the locals of all functions together, which the engine keeps one by one.
func maxAllLocals(codeSection int) limit {
	return limit{100_000 + uint64(codeSection), "max-all-locals", "locals in all functions", "the engine keeps each (seen: one per 20 bytes of code)"}
}
