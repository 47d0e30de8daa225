//go:build race

package runtime

// instrumented is how much slower and larger a program is that looks for data races.
const instrumented = 10

// childEnv keeps such a child from waiting a second for late reports when it has ended.
const childEnv = "GORACE=atexit_sleep_ms=0"
