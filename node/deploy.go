package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

// deployer takes deploys. A deploy walks one way: verify the signed records, plan, stream the bundle
// to an eligible holder (this node only if it is one), which admits and loads it; copy it to a second
// holder; then, and only then, write the records. Nobody sees a revision that is not warm somewhere.
//
// A deploy that ends before its records are written leaves nothing to see: what holders have of it
// they let go of later, and a new try finds it there.
type deployer struct {
	self    perigee.NodeID
	gossip  *gossip.Gossip
	store   *bundle.Store
	rep     *replicator
	control func(perigee.NodeID) http.RoundTripper
	metrics *metrics
	log     *slog.Logger

	sends  sends
	places chan struct{} // one for each deploy that may be under way here
	commit sync.Mutex    // one deploy is recorded at a time: of two of a function, the second is told
}

const (
	deployTimeout = 10 * time.Minute
	authorWait    = 2 * time.Second // for the record that makes a key known, when somebody has just logged in
	maxDeploys    = 16
	offerTimeout  = 5 * time.Second // a holder that died a moment ago is silent

	// The records must not overtake the news that a holder is warm, or gateways would know a live
	// revision that nobody has. The news is sent first, the same ways; headStart is for Views to be
	// rebuilt, which happens up to 20 times a second.
	headStart = 100 * time.Millisecond
	newsTime  = 5 * time.Second

	// What a bundle may have at most: the limits of package bundle and room for headers.
	maxArchive = bundle.MaxWasm + bundle.MaxFiles + 32*perigee.MiB
)

func newDeployer(n *Node, store *bundle.Store, m *metrics) *deployer {
	return &deployer{
		self: n.ID(), gossip: n.gossip, store: store, rep: n.rep, control: n.link.Control, metrics: m, log: n.log,
		places: make(chan struct{}, maxDeploys), sends: sends{byPeer: map[perigee.NodeID]int{}},
	}
}

// deploy runs one deploy and tells progress of each step.
func (d *deployer) deploy(ctx context.Context, revision, pointer []byte, archive io.Reader, progress func(DeployEvent)) (last DeployEvent, err error) {
	defer func() { d.metrics.deployed(err) }()
	ctx, cancel := context.WithTimeoutCause(ctx, deployTimeout, fmt.Errorf("it took longer than %v", deployTimeout))
	defer cancel()
	select {
	case d.places <- struct{}{}:
		defer func() { <-d.places }()
	case <-ctx.Done():
		return last, context.Cause(ctx)
	}
	fn, plan, err := d.prepare(ctx, revision, pointer)
	if err != nil {
		return last, fmt.Errorf("deploy%s: nothing was changed: %w", nameOf(fn), err)
	}
	first, err := d.place(ctx, fn, plan, archive, progress, revision, pointer)
	if err != nil {
		return last, fmt.Errorf("deploy %s: nothing was changed: %w", fn.Name, err)
	}
	d.spread(ctx, fn, plan, first, progress, revision, pointer)
	d.awaitNews(ctx, fn, first, perigee.Warm)
	ack, err := d.record(ctx, fn, first, revision, pointer)
	if err != nil {
		return last, fmt.Errorf("deploy %s: nothing was changed: %w", fn.Name, err)
	}
	d.log.Info("function deployed", "function", fn.Name, "revision", fn.Live.ID, "author", fn.Live.Author, "stored", ack.Stored)
	return DeployEvent{Step: StepRecorded, Revision: fn.Live.ID, Stored: ack.Stored, Done: true}, nil
}

// prepare checks all that can be checked before a byte of the bundle is read, and plans. With an error
// the function is nil if not even its name is known.
func (d *deployer) prepare(ctx context.Context, revision, pointer []byte) (fn *perigee.Function, plan placement.Plan, err error) {
	fn, err = d.candidate(ctx, revision, pointer)
	if err != nil {
		return nil, plan, err
	}
	if err := d.checkHeads(fn, pointer); err != nil {
		return fn, plan, err
	}
	view := d.gossip.View()
	if names := unset(view.Desired, &fn.Live.Manifest); len(names) > 0 {
		return fn, plan, fmt.Errorf("secret %s has no value: set it with `perigee secret set %s %s`", strings.Join(names, ", "), fn.Name, names[0])
	}
	plan = placement.NewPlanner(view).Plan(fn)
	if len(plan.Holders) == 0 || len(plan.Unsatisfied) > 0 && !samePlacement(view.Desired.Functions[fn.Name], fn) {
		return fn, plan, fmt.Errorf("its placement can't be satisfied now: %s", strings.Join(plan.Unsatisfied, "; "))
	}
	return fn, plan, nil
}

// nameOf is a function's name for an error, after a space; "" = it is not known.
func nameOf(fn *perigee.Function) string {
	if fn == nil {
		return ""
	}
	return " " + fn.Name
}

// samePlacement reports whether a function is live with the same placement. Then a new revision
// changes nothing about where it runs, and a repair need not wait until a lost region is back.
func samePlacement(live, fn *perigee.Function) bool {
	return live != nil && sameJSON(live.Policy(), fn.Policy())
}

// candidate returns the function as it would be with the signed pointer in force, which must make this
// revision live. It checks the records' signatures, their author's rights, the manifest and the
// placement, as every node will.
func (d *deployer) candidate(ctx context.Context, revision, pointer []byte) (*perigee.Function, error) {
	if err := d.verify(ctx, revision, pointer); err != nil {
		return nil, err
	}
	r, p, err := open[*record.Revision](revision)
	if err != nil {
		return nil, err
	}
	_, ptr, err := open[*record.Pointer](pointer)
	if err != nil {
		return nil, fmt.Errorf("the pointer record: %w", err)
	}
	if ptr.Function != p.Manifest.Name || ptr.Revision != record.ID(revision) {
		return nil, errors.New("the pointer record does not name the revision that came with it")
	}
	fn := &perigee.Function{
		Name: p.Manifest.Name, Head: record.ID(pointer), Placement: ptr.Placement, Rollout: ptr.Rollout,
		Live: &perigee.Revision{
			ID: record.RevisionID(record.ID(revision)), Manifest: p.Manifest, Bundle: p.Bundle, Size: p.Size, Author: r.Key, Created: r.HLC.Time(),
		},
	}
	m := p.Manifest
	m.Placement = *fn.Policy()
	if err := checkManifest(&m, d.gossip.View().Desired.Regions); err != nil {
		return nil, err
	}
	if p.Size <= 0 || p.Size > maxArchive {
		return nil, fmt.Errorf("its bundle of %d bytes: want 1 to %d", p.Size, maxArchive)
	}
	return fn, nil
}

// verify has gossip verify records. An author that it does not know yet may become known in a
// moment: somebody who has just logged in at another node.
func (d *deployer) verify(ctx context.Context, records ...[]byte) (err error) {
	await(ctx, d.gossip, authorWait, func() bool {
		err = d.gossip.Verify(records...)
		return gossip.RuleOf(err) != gossip.RuleAuthor
	})
	return err
}

// open decodes a record that must have a payload of one kind.
func open[P record.Payload](b []byte) (*record.Record, P, error) {
	var none P
	r, err := record.Decode(b)
	if err != nil {
		return nil, none, err
	}
	p, err := r.Open()
	if err != nil {
		return nil, none, err
	}
	want, ok := p.(P)
	if !ok {
		return nil, none, fmt.Errorf("found a %s record in its place", r.Kind)
	}
	return r, want, nil
}

// checkHeads requires that the pointer replaces what is live now.
func (d *deployer) checkHeads(fn *perigee.Function, pointer []byte) error {
	r, _, err := open[*record.Pointer](pointer)
	if err != nil {
		return err
	}
	for _, head := range d.gossip.Heads(fn.Name) {
		if head != record.ID(pointer) && !slices.Contains(r.Parents, head) {
			return fmt.Errorf("somebody else changed %s meanwhile: see `perigee show %s`, then try again to replace that", fn.Name, fn.Name)
		}
	}
	return nil
}

// place brings the archive to a planned holder: this node if it is one, else the nearest that takes
// it, which gets the records, too. It returns that node.
func (d *deployer) place(ctx context.Context, fn *perigee.Function, plan placement.Plan, archive io.Reader, progress func(DeployEvent), records ...[]byte) (perigee.NodeID, error) {
	admitted := DeployEvent{Step: StepAdmitted, Node: d.self, Revision: fn.Live.ID}
	var errs []error
	if slices.Contains(plan.Holders, d.self) {
		err := d.rep.room(fn.Live)
		if err == nil {
			if err := d.take(ctx, fn, archive); err != nil {
				return "", err
			}
			progress(admitted)
			return d.self, nil
		}
		errs = append(errs, fmt.Errorf("%s does not take the bundle: %w", d.self, err))
		progress(DeployEvent{Step: StepWaiting, Node: d.self, Revision: fn.Live.ID, Detail: err.Error()})
	}
	// This node does not keep the bundle: what arrives goes straight on to one that does.
	for _, to := range d.rep.nearest(plan.Holders) {
		if to == d.self {
			continue
		}
		send, err := d.offer(ctx, to, records...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s does not take the bundle: %w", to, err))
			progress(DeployEvent{Step: StepWaiting, Node: to, Revision: fn.Live.ID, Detail: err.Error()})
			continue
		}
		var rest io.Reader = http.NoBody
		if send {
			rest = io.LimitReader(archive, int64(fn.Live.Size))
		}
		if err := d.post(ctx, to, "/bundles", rest, records...); err != nil {
			return "", fmt.Errorf("hand the bundle to %s: %w", to, err) // it was read: there is nothing to give to another
		}
		admitted.Node = to
		progress(admitted)
		return to, nil
	}
	return "", errors.Join(errs...)
}

// offer asks a holder whether it takes a bundle, and whether the bytes are to be sent.
func (d *deployer) offer(ctx context.Context, to perigee.NodeID, records ...[]byte) (send bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, offerTimeout, fmt.Errorf("no answer within %v", offerTimeout))
	defer cancel()
	var head bytes.Buffer
	if err := writeFrames(&head, records...); err != nil {
		return false, err
	}
	answer, err := call(ctx, d.control(to), "/bundles/offer", head.Bytes())
	return string(answer) == offerSend, err
}

// spread copies the bundle to a second holder, so that the death of the first loses nothing. It is
// not an error when none can be had: the replication of the others goes on for ever.
func (d *deployer) spread(ctx context.Context, fn *perigee.Function, plan placement.Plan, first perigee.NodeID, progress func(DeployEvent), records ...[]byte) {
	for _, id := range d.rep.nearest(plan.Holders) {
		if id == first || id == d.self {
			continue
		}
		_, err := d.offer(ctx, id, records...)
		if err == nil {
			err = d.post(ctx, id, "/bundles/fetch/"+string(first), http.NoBody, records...)
		}
		switch {
		case err == nil:
			progress(DeployEvent{Step: StepCopied, Node: id, Revision: fn.Live.ID})
			return
		case ctx.Err() != nil:
			return
		}
		d.log.Warn("copy a new bundle", "function", fn.Name, "peer", id, "err", err)
		progress(DeployEvent{Step: StepWaiting, Node: id, Revision: fn.Live.ID, Detail: err.Error()})
	}
}

// awaitNews waits until this node has heard that the holder is so warm, and then until all have.
func (d *deployer) awaitNews(ctx context.Context, fn *perigee.Function, holder perigee.NodeID, to perigee.Warmth) {
	await(ctx, d.gossip, newsTime, func() bool {
		p := d.gossip.View().Observed.Nodes[holder]
		return p != nil && p.Revisions[fn.Live.ID] >= to
	})
	pause(ctx, headStart)
}

// record writes the records: the moment at which the deploy happens. What was true when it began is
// looked at again, since a bundle may travel for minutes. From here on it does not matter whether
// the client waits.
func (d *deployer) record(ctx context.Context, fn *perigee.Function, first perigee.NodeID, revision, pointer []byte) (gossip.Ack, error) {
	d.commit.Lock()
	defer d.commit.Unlock()
	if ctx.Err() != nil {
		return gossip.Ack{}, context.Cause(ctx)
	}
	if err := d.checkHeads(fn, pointer); err != nil {
		return gossip.Ack{}, err
	}
	if p := d.gossip.View().Observed.Nodes[first]; p == nil || p.State == perigee.NodeDead || p.State == perigee.NodeLeft {
		return gossip.Ack{}, fmt.Errorf("%s, which has the bundle, is gone: try again", first)
	}
	return d.gossip.Submit(context.WithoutCancel(ctx), revision, pointer)
}

// post sends a revision, its pointer, and what follows them, to a peer.
func (d *deployer) post(ctx context.Context, to perigee.NodeID, path string, rest io.Reader, records ...[]byte) error {
	var head bytes.Buffer
	if err := writeFrames(&head, records...); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://perigee"+path, io.MultiReader(&head, rest))
	if err != nil {
		return err
	}
	resp, err := d.control(to).RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return errors.New(errorText(resp.Body))
	}
	return nil
}

// checkManifest holds a manifest against all rules, in a cluster with these regions.
func checkManifest(m *perigee.Manifest, regions *perigee.Regions) error {
	if err := bundle.CheckManifest(m, regions); err != nil {
		return err
	}
	return placement.Check(m.Name, &m.Placement, regions)
}

// await calls f until it returns true, again after each change of the View, and gives up after limit.
func await(ctx context.Context, g *gossip.Gossip, limit time.Duration, f func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	changed := g.Watch(ctx)
	for !f() {
		<-changed // closed when ctx ends
		if ctx.Err() != nil {
			return f()
		}
	}
	return true
}
