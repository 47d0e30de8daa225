package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/measured"
)

// TestDistances gathers what gateways measured: the shortest way to each region counts, and one that does not
// answer, lies about the form or is no gateway counts for nothing.
func TestDistances(t *testing.T) {
	v := issuerView(map[perigee.NodeID]perigee.NodeState{
		"n-fra-1": perigee.NodeAlive, "n-fra-2": perigee.NodeAlive, "n-wdc-1": perigee.NodeAlive, "n-syd-1": perigee.NodeAlive, "n-ams-1": perigee.NodeDead, "n-lon-1": perigee.NodeAlive,
	})
	for id, p := range v.Observed.Nodes {
		if id != "n-lon-1" {
			p.HTTPS = ":443"
		}
	}
	network := netip.MustParsePrefix("198.51.100.0/24")
	d := &distances{own: measured.New(), self: "n-fra-1", view: func() *perigee.View { return v }, log: slog.New(slog.DiscardHandler)}
	d.fetch = func(_ context.Context, from perigee.NodeID, path string) ([]byte, error) {
		switch {
		case path != "/distances":
			t.Errorf("asked %s for %s", from, path)
		case from == "n-fra-2":
			return json.Marshal(map[netip.Prefix]uint32{network: 9000})
		case from == "n-wdc-1":
			return json.Marshal(map[netip.Prefix]uint32{network: 80_000})
		case from == "n-syd-1":
			return []byte("[1]"), nil
		}
		return nil, errors.New("unreachable")
	}
	client := netip.MustParseAddr("198.51.100.77")
	if got := d.regions(client); got != nil {
		t.Errorf("before anything is known: %v", got)
	}
	for range 3 {
		d.observe(client, 20*time.Millisecond)
	}
	d.gather(t.Context())
	got := d.regions(netip.MustParseAddr("198.51.100.0"))
	if len(got) != 2 || got["fra"] != 9*time.Millisecond || got["wdc"] != 80*time.Millisecond {
		t.Errorf("gathered: %v", got)
	}
	if got := d.regions(netip.MustParseAddr("203.0.113.1")); len(got) != 0 {
		t.Errorf("another network: %v", got)
	}
}
