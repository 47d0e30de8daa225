package wasmbin

import "fmt"

// Error says why a module is refused.
type Error struct {
	Rule   string // short and constant, for programs: "max-locals", "no-threads", "truncated" …
	Offset int    // where in the file, in bytes
	Detail string // for people: what was found and what is allowed
}

// Error returns the rule, the offset and the detail.
func (e *Error) Error() string {
	return fmt.Sprintf("%s at offset %d: %s", e.Rule, e.Offset, e.Detail)
}
