package edgeproxy

import (
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// ObeyPurges drops what must not be stored here any more: what was purged, and what is of functions that are gone or
// may not run here. Each request does so before it uses what is stored; whoever knows that the View has changed calls it, so
// that nothing stays because nobody asks.
func (p *Proxy) ObeyPurges() {
	if p.cached != nil && p.cached.follows.Load() != p.cfg.View().Desired {
		p.cached.obey(p)
	}
}

func (c *cached) obey(p *Proxy) {
	c.obeying.Lock()
	defer c.obeying.Unlock()
	v := p.cfg.View() // the latest, also if this request has an earlier one
	d, self, now := v.Desired, p.claims(v), time.Now()
	for function := range c.store.Functions() {
		fn := d.Functions[function]
		if fn != nil && fn.Live.Manifest.Cache.Enabled {
			if _, ok := placement.Allowed(fn.Policy(), self, d.Regions); ok {
				continue
			}
		}
		c.store.Purge(perigee.PurgeMatch{Function: function}, now)
	}
	obeyed := map[perigee.Digest]bool{}
	for function, list := range d.Purges {
		missed := len(list) >= perigee.MaxPurges && !c.obeyed[list[0].ID]
		if missed { // some may have come and gone
			c.store.Purge(perigee.PurgeMatch{Function: function}, now)
		}
		for _, purge := range list {
			if !missed && !c.obeyed[purge.ID] {
				c.store.Purge(purge.PurgeMatch, now)
			}
			obeyed[purge.ID] = true
		}
	}
	c.obeyed = obeyed
	c.follows.Store(d)
}
