//go:build !linux

package runtime

import (
	"os/exec"
	"time"
)

// Other systems than Linux bound the child by wall time only: they run `perigee dev`, not clusters.

func setGroup(*exec.Cmd) {}

func limitSelf(uint64, time.Duration) error { return nil }

func watchMemory(int, int64, func()) (stop func()) { return func() {} }
