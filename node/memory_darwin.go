package node

import (
	"golang.org/x/sys/unix"

	"github.com/perigee-edge/perigee"
)

// machineMemory returns how much memory this machine has; 0 = it can't be told.
func machineMemory() perigee.Bytes {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return perigee.Bytes(n)
}
