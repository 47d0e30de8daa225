package edgeproxy

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestMeasured: each connection tells its round trip when it ends, over TCP and QUIC, with the client's address;
// one that was passed on tells it at the gateway that the client reached, and nowhere else.
func TestMeasured(t *testing.T) {
	type measurement struct {
		client netip.Addr
		rtt    time.Duration
	}
	var mu sync.Mutex
	var seen []measurement
	note := func(c *Config) {
		if c.Self == "wdc-1" {
			c.Measured = func(client netip.Addr, rtt time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, measurement{client, rtt})
			}
			return
		}
		c.Measured = func(client netip.Addr, rtt time.Duration) {
			t.Errorf("%s measured %v to %s", c.Self, rtt, client)
		}
	}
	w := newPassWorld(t, newLocal(greet), note)
	count := func(n int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == n }
	}
	c := client(t, w.outside, w.ca, false)
	do(t, c, newRequest(t, "GET", "https://"+testHost+"/", nil))
	c.CloseIdleConnections()
	eventually(t, "a connection that is passed on is measured", count(1))
	w.change(func(m *perigee.Manifest) { m.Placement.Residency = nil })
	conn := dial3(t, w.outside, w.ca)
	if _, err := conn.AcceptUniStream(t.Context()); err != nil { // the node has taken the connection
		t.Fatal(err)
	}
	_ = conn.CloseWithError(0, "")
	eventually(t, "QUIC is measured", count(2))
	mu.Lock()
	defer mu.Unlock()
	for _, m := range seen {
		if !m.client.IsLoopback() || m.rtt <= 0 || m.rtt > 5*time.Second {
			t.Errorf("measured %v to %s", m.rtt, m.client)
		}
	}
}
