// Package placement measures the planner of package placement in made worlds: how fast it is, and how
// much moves. It has no model of its own of where code should run; what it asks is the code that nodes
// run. It starts no goroutine. For tests and figures only.
package placement
