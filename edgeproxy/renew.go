package edgeproxy

import (
	"context"
	"time"
)

// A change of a function's rules holds on each node as soon as it hears of it. One that hears it later
// still sends requests to nodes that the new rules exclude, and these refuse. Then the news is on its way.
const (
	newsWait = time.Second
	newsLook = 10 * time.Millisecond
)

// renew waits for the news that a node which refused by a hard rule must have had, and takes the function
// as it is then. It reports whether there were any, and this node may still see the request.
func (v *visit) renew(ctx context.Context) bool {
	end := time.NewTimer(newsWait)
	defer end.Stop()
	look := time.NewTicker(newsLook)
	defer look.Stop()
	name := v.fn.Name
	for was := v.view.Desired.Functions[name]; ; {
		view := v.proxy.cfg.View()
		fn := view.Desired.Functions[name]
		if fn == nil {
			return false
		}
		if fn != was {
			if v.outer, _ = v.proxy.terminates(view, v.host); v.outer != "" {
				return false
			}
			v.take(view, fn)
			v.route = v.proxy.routes.of(v.fn, v.view.Desired.Functions)
			return true
		}
		select {
		case <-look.C:
		case <-end.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
