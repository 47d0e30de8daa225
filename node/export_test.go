package node

import (
	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// EchoGuest is a guest that answers with the request.
func EchoGuest() []byte { return echo() }

// small is a disk with so many bytes free.
type small struct {
	vfs.FS
	free perigee.Bytes
}

func (s small) Free(string) (int64, error) { return int64(s.free), nil }

// SetFree makes a node's disk have so many bytes free.
func SetFree(n *Node, free perigee.Bytes) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	n.disk.fs = small{n.disk.fs, free}
}

// LookAtDisk has a node look at its disk now.
func LookAtDisk(n *Node) { n.disk.look() }
