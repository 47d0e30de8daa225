package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
)

// reacher tries whether members of the cluster reach an address that a joining node says is its own.
// This node alone can't tell: behind NAT, the way back to a node that it has just talked to may be
// open although others find it closed. So others are asked, too, over the control connection:
//
//	POST /reach    an address "IP:PORT" -> 204, or 409 and why not
type reacher struct {
	self    perigee.NodeClaims
	view    func() *perigee.View
	reach   func(context.Context, netip.AddrPort) error // from here
	control func(perigee.NodeID) http.RoundTripper
	limit   *rate.Limiter // of what other members ask
}

const (
	reachOthers = 2
	reachTime   = 5 * time.Second
	reachRate   = 5 // a second
	reachBurst  = 20
)

func newReacher(n *Node) *reacher {
	return &reacher{self: n.Claims(), view: n.View, reach: n.link.Reach, control: n.link.Control, limit: rate.NewLimiter(reachRate, reachBurst)}
}

// check requires that this node and, of the others that it asks, at least one reach the address.
// Others that do not answer are not counted.
func (c *reacher) check(ctx context.Context, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	others := c.others()
	failed := make([]error, len(others))
	var wg sync.WaitGroup
	for i, p := range others {
		wg.Go(func() { failed[i] = c.ask(ctx, p.ID, addr) })
	}
	err := c.reach(ctx, addr)
	wg.Wait()
	var blocked []string
	reached := 0
	for i, p := range others {
		switch {
		case failed[i] == nil:
			reached++
		case errors.Is(failed[i], errBlocked):
			blocked = append(blocked, fmt.Sprintf("%s (%s)", p.ID, p.Region))
		}
	}
	if err != nil {
		blocked = append([]string{fmt.Sprintf("%s (%s)", c.self.ID, c.self.Region)}, blocked...)
	} else if len(blocked) == 0 || reached > 0 {
		return nil
	}
	return &refused{status: http.StatusConflict, deaf: err != nil, text: fmt.Sprintf(
		"udp %s does not answer from %s: open that port for UDP in the new node's firewall, or for TCP where UDP is dropped on the way, or say with --advertise IP:PORT where it is reachable; the token is still good",
		addr, strings.Join(blocked, ", "))}
}

// others chooses members to ask, those in other regions first.
func (c *reacher) others() []*perigee.Peer {
	var far, near []*perigee.Peer
	for _, p := range byID(c.view().Observed.Nodes) {
		switch {
		case p.ID == c.self.ID || p.State != perigee.NodeAlive || p.Draining:
		case p.Region != c.self.Region:
			far = append(far, p)
		default:
			near = append(near, p)
		}
	}
	all := append(far, near...)
	return all[:min(len(all), reachOthers)]
}

// errBlocked is the answer of a member that tried and did not reach the address.
var errBlocked = errors.New("not reached")

func (c *reacher) ask(ctx context.Context, id perigee.NodeID, addr netip.AddrPort) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://perigee/reach", strings.NewReader(addr.String()))
	if err != nil {
		return err
	}
	resp, err := c.control(id).RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNoContent:
		return nil
	case http.StatusConflict:
		return errBlocked
	}
	return errors.New(errorText(resp.Body))
}

// handler does for other members what ask asks.
func (c *reacher) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(io.LimitReader(newPaced(w, r, time.Now().Add(stallTime)), 100))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		addr, err := parseAdvertise(string(text), netip.Addr{})
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		case !c.limit.Allow():
			http.Error(w, "too many addresses to try", http.StatusTooManyRequests)
		default:
			ctx, cancel := context.WithTimeout(r.Context(), reachTime)
			defer cancel()
			done(w, c.reach(ctx, addr))
		}
	})
}
