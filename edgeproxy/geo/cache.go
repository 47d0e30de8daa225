package geo

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"

	"github.com/perigee-edge/perigee"
)

// slots is how many addresses a cache remembers: clients ask again and again.
const slots = 4096

// cache remembers where addresses are. Each address has one slot, which it takes from whoever was
// there. It is safe for concurrent use.
type cache struct {
	seed  maphash.Seed
	slots [slots]atomic.Pointer[found]
}

type found struct {
	addr  netip.Addr
	place Place
	since uint64 // see Locator.changes

	regions *perigee.Regions // the catalogue that region is of; nil = none was asked for
	region  perigee.Region
}

func (c *cache) slot(addr netip.Addr) *atomic.Pointer[found] {
	return &c.slots[maphash.Comparable(c.seed, addr)%slots]
}
