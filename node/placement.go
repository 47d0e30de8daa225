package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

// This file changes where a function runs, without a new bundle: a signed pointer to the revision that
// is live, with other rules. The way is that of a deploy without its bundle: verify, plan, and where no
// holder of the new plan has the bundle yet, bring it to one first. Then the record is written, and
// whoever the new hard rules exclude stops at once and lets go of all it has.

// move puts a pointer with another placement in force.
func (d *deployer) move(ctx context.Context, pointer []byte) (out Placed, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deployTimeout, fmt.Errorf("it took longer than %v", deployTimeout))
	defer cancel()
	_, ptr, err := open[*record.Pointer](pointer)
	if err != nil {
		return out, fmt.Errorf("change a placement: the pointer record: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("change the placement of %s: nothing was changed: %w", ptr.Function, err)
		}
	}()
	live := d.gossip.View().Desired.Functions[ptr.Function]
	if live == nil || live.Live.ID != record.RevisionID(ptr.Revision) {
		return out, fmt.Errorf("revision %s is not the live one: see `perigee show %s`", record.RevisionID(ptr.Revision), ptr.Function)
	}
	revision, ok := d.gossip.Record(ptr.Revision)
	if !ok {
		return out, fmt.Errorf("the record of revision %s is not known here yet: try again in a moment", live.Live.ID)
	}
	fn, plan, err := d.prepare(ctx, revision, pointer)
	if err != nil {
		return out, err
	}
	first := d.holderOf(fn, plan)
	if first == "" {
		if !d.store.Has(fn.Live.Bundle) {
			return d.relay(ctx, fn, pointer)
		}
		if first, err = d.bringTo(ctx, fn, plan, revision, pointer); err != nil {
			return out, err
		}
		out.Brought = first
	}
	ack, err := d.record(ctx, fn, first, revision, pointer)
	if err != nil {
		return out, err
	}
	out.Changed, out.Stored = true, ack.Stored
	d.log.Info("placement changed", "function", fn.Name, "revision", fn.Live.ID, "stored", ack.Stored)
	return out, nil
}

// holderOf returns a planned holder that has the bundle, the warmest; "" = there is none.
func (d *deployer) holderOf(fn *perigee.Function, plan placement.Plan) (best perigee.NodeID) {
	nodes, most := d.gossip.View().Observed.Nodes, perigee.Absent
	for _, id := range plan.Holders {
		if p := nodes[id]; p != nil && p.Routable() && p.Revisions[fn.Live.ID] > most {
			best, most = id, p.Revisions[fn.Live.ID]
		}
	}
	return best
}

// bringTo sends the bundle from here to a planned holder.
func (d *deployer) bringTo(ctx context.Context, fn *perigee.Function, plan placement.Plan, records ...[]byte) (perigee.NodeID, error) {
	defer d.rep.use(fn.Live.Bundle)()
	archive, _, err := d.store.Open(fn.Live.Bundle)
	if err != nil {
		return "", err
	}
	defer archive.Close()
	first, err := d.place(ctx, fn, plan, archive, func(DeployEvent) {}, records...)
	if err != nil {
		return "", err
	}
	d.awaitNews(ctx, fn, first, perigee.Held)
	return first, nil
}

// relay has the nearest node that has the bundle do it.
func (d *deployer) relay(ctx context.Context, fn *perigee.Function, pointer []byte) (out Placed, err error) {
	holders := d.rep.holders(fn.Live.ID)
	if len(holders) == 0 {
		return out, errors.New("no node that is up has its bundle: deploy it again from its sources")
	}
	answer, err := call(ctx, d.control(holders[0]), "/placement", pointer)
	if err != nil {
		return out, fmt.Errorf("have %s, which has the bundle, do it: %w", holders[0], err)
	}
	return out, json.Unmarshal(answer, &out)
}

// servePlacement is POST /v1/placement: the body is the pointer record.
func (n *Node) servePlacement(r *http.Request) (any, error) {
	pointer, err := io.ReadAll(io.LimitReader(r.Body, record.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the pointer: %w", err)
	}
	return n.deployer.move(r.Context(), pointer)
}

// serveNodePlacement is POST /placement on the control connection, of a node that does not have the bundle.
func (n *Node) serveNodePlacement(w http.ResponseWriter, r *http.Request) {
	pointer, err := io.ReadAll(io.LimitReader(r.Body, record.MaxSize+1))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, ptr, err := open[*record.Pointer](pointer)
	if err == nil {
		if live := n.View().Desired.Functions[ptr.Function]; live == nil || !n.deployer.store.Has(live.Live.Bundle) {
			err = errors.New("its bundle is not here any more: try again")
		}
	}
	var out Placed
	if err == nil {
		out, err = n.deployer.move(r.Context(), pointer)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

// SetPlacement makes a placement the one that a function obeys from now on, whatever revision of it is
// deployed later; nil = that of the live revision's manifest again. The code stays what it is. With
// expect it does so only if that revision is live.
func (p *Person) SetPlacement(ctx context.Context, name string, policy *perigee.Policy, expect perigee.RevisionID) (Placed, error) {
	fn, old, err := p.Function(ctx, name)
	if err != nil {
		return Placed{}, err
	}
	if expect != "" && expect != fn.Live.ID {
		return Placed{}, fmt.Errorf("change the placement of %s: nothing was changed: revision %s is live, not %s: see `perigee show %s`", name, fn.Live.ID, expect, name)
	}
	if len(old.Heads) > 1 {
		return Placed{}, fmt.Errorf("change the placement of %s: nothing was changed: people changed it at the same time: settle that first with `perigee promote %s REVISION`", name, name)
	}
	if sameJSON(fn.Placement, policy) || fn.Placement == nil && sameJSON(fn.Policy(), policy) {
		return Placed{}, nil
	}
	at := slices.IndexFunc(fn.Revisions, func(r RevisionStatus) bool { return r.ID == fn.Live.ID })
	if at < 0 {
		return Placed{}, fmt.Errorf("change the placement of %s: the node does not list its live revision %s", name, fn.Live.ID)
	}
	s, err := p.Status(ctx)
	if err != nil {
		return Placed{}, err
	}
	_, b, err := record.Sign(p.Key, p.Cluster, p.Epoch, s.Now, old.Heads, &record.Pointer{
		Function: name, Revision: fn.Revisions[at].Record, Placement: policy, Rollout: fn.Function.Rollout, Past: old.Past,
	})
	if err != nil {
		return Placed{}, err
	}
	return p.Place(ctx, b)
}
