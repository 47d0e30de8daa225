package gossip

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/vfs"
)

const (
	peersName = "peers.json"
	maxPeers  = 1024
	maxFile   = 256 << 10
)

// rowAddr is where a node's row says that it can be reached.
type rowAddr struct {
	addr netip.AddrPort
	left bool
}

// savedPeers is the file of peers that were alive when this node last looked. A node that starts
// again calls them, so that it comes back even when its seeds are gone. It proves nothing.
type savedPeers struct {
	Version int                               `json:"version"`
	Peers   map[perigee.NodeID]netip.AddrPort `json:"peers"`
}

// loadPeers reads the file; none is no error.
func loadPeers(fsys vfs.FS, dir string) (map[perigee.NodeID]netip.AddrPort, error) {
	name := filepath.Join(dir, peersName)
	b, err := vfs.ReadFile(fsys, name, maxFile)
	if vfs.NotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read last known peers: %w", err)
	}
	var s savedPeers
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read last known peers: %s: %w", name, err)
	}
	if s.Version != 1 || len(s.Peers) > maxPeers {
		return nil, fmt.Errorf("read last known peers: %s has version %d and %d peers", name, s.Version, len(s.Peers))
	}
	maps.DeleteFunc(s.Peers, func(_ perigee.NodeID, a netip.AddrPort) bool { return !a.IsValid() })
	return s.Peers, nil
}

// savePeers replaces the file.
func savePeers(fsys vfs.FS, dir string, peers map[perigee.NodeID]netip.AddrPort) error {
	s := savedPeers{Version: 1, Peers: map[perigee.NodeID]netip.AddrPort{}}
	for _, id := range slices.Sorted(maps.Keys(peers)) {
		if len(s.Peers) < maxPeers {
			s.Peers[id] = peers[id]
		}
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write last known peers: %w", err)
	}
	if err := vfs.Replace(fsys, filepath.Join(dir, peersName), b); err != nil {
		return fmt.Errorf("write last known peers: %w", err)
	}
	return nil
}
