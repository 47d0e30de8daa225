//go:build !race

package runtime

// instrumented is how much slower and larger than usual this program is.
const instrumented = 1

// childEnv is the environment of the admission child: nothing of ours, and no more processors than
// help it.
const childEnv = "GOMAXPROCS=2"
