package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	askTime    = 3 * time.Second // for one node to answer
	askAtOnce  = 16
	askMaximum = 16 << 20 // bytes of one answer
)

// askable says whether a node may answer a question about what is on it; else why not.
func askable(p *perigee.Peer) error {
	if p.State != perigee.NodeAlive && p.State != perigee.NodeSuspect {
		return fmt.Errorf("it is %s", p.State)
	}
	return nil
}

// askAll has ask called for each member, or for one, a bounded number at a time. Members that are down
// are not asked: their error says so. only may be "".
func (n *Node) askAll(ctx context.Context, only perigee.NodeID, ask func(ctx context.Context, p *perigee.Peer) error, failed func(p *perigee.Peer, err error)) error {
	tokens := make(chan struct{}, askAtOnce)
	found := false
	var all sync.WaitGroup
	defer all.Wait()
	for _, p := range byID(n.View().Observed.Nodes) {
		if only != "" && p.ID != only {
			continue
		}
		found = true
		if err := askable(p); err != nil {
			failed(p, err)
			continue
		}
		tokens <- struct{}{}
		all.Go(func() {
			defer func() { <-tokens }()
			ctx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("no answer within %v", askTime))
			defer cancel()
			if err := ask(ctx, p); err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				failed(p, err)
			}
		})
	}
	if !found {
		return fmt.Errorf("there is no node %q: `perigee node ls` lists them", only)
	}
	return nil
}

// control sends a GET to a member over the control connection. The answer is bounded by the caller.
func (n *Node) control(ctx context.Context, id perigee.NodeID, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://perigee"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.link.Control(id).RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return nil, errors.New("it runs a release that can't tell")
		}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return nil, fmt.Errorf("%s: %s", resp.Status, b)
	}
	return resp, nil
}

// membersOnly refuses requests that do not come from a node.
func membersOnly(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := peerOf(r); !ok {
			http.Error(w, "only nodes may ask this", http.StatusForbidden)
			return
		}
		h(w, r)
	})
}
