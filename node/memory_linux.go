package node

import (
	"golang.org/x/sys/unix"

	"github.com/perigee-edge/perigee"
)

// machineMemory returns how much memory this machine has; 0 = it can't be told.
func machineMemory() perigee.Bytes {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return perigee.Bytes(uint64(info.Totalram) * uint64(info.Unit))
}
