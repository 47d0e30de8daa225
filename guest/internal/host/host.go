// Package host connects the packages of this module without making one need the other.
package host

// Deadline returns the nanoseconds until the request that is being answered ends, or a negative number
// if it has no limit. nil = the module does not import what could tell. Set by an init function.
var Deadline func() int64
