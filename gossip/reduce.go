package gossip

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// maxHistory bounds the revisions that a function lists in the View, and how many of those that served stay
// in the set: what somebody may want to look at or go back to. A function has some 40 KiB then.
const maxHistory = 20

// folded is what a set of records means. It is immutable, and readers get it by one atomic load.
type folded struct {
	desired  *perigee.Desired
	auth     *authority
	lineages map[string]*lineage // by function, removed ones included
	outlived []*entry            // of the set, without meaning from now on; not of lineages that were taken over
}

// lineage is what the records of one function mean.
type lineage struct {
	revisions map[perigee.Digest]*entry // those that have an effect
	named     map[perigee.RevisionID]perigee.Digest
	history   *history
	secrets   map[string]*perigee.Secret
	fn        *perigee.Function // nil when it is removed or never had a pointer; without contested routes
	outlived  []*entry          // not among the above
}

// reduce folds a set of records into what this node shows. It is pure: the result depends on the
// set alone, not on the order in which its records came. Given an earlier result, it takes over the
// lineages of functions that no record touched since, if the same authority stands.
func reduce(s *set, auth *authority, old *folded, touched map[string]bool) *folded {
	f := &folded{auth: auth, lineages: make(map[string]*lineage, len(s.pointers))}
	if old != nil && old.auth == auth {
		maps.Copy(f.lineages, old.lineages)
		for name := range touched {
			delete(f.lineages, name)
		}
	}
	for _, names := range []map[string][]*entry{s.revisions, s.pointers, s.secrets} {
		for name := range names {
			if f.lineages[name] == nil {
				l := newLineage(name, s, auth)
				f.lineages[name] = l
				f.outlived = append(f.outlived, l.outlived...)
			}
		}
	}
	f.outlived = append(f.outlived, outlivedShared(s, auth)...)
	f.desired = perigee.NewDesired(perigee.Desired{
		Cluster: auth.genesis.Cluster, Domain: auth.genesis.Domain, Functions: contest(f.lineages, auth.genesis.Domain),
		Regions: foldRegions(s.regions, auth), Revoked: auth.revokedNodes(), Web: foldWeb(s.web, auth), Purges: foldPurges(s.purges, s.lately, auth), Secrets: secretsOf(f.lineages), Digest: s.tree.root,
	})
	return f
}

// newLineage folds the records of one function that are not outlived.
func newLineage(name string, s *set, auth *authority) *lineage {
	revisions, pointers, secrets := s.revisions[name], s.pointers[name], s.secrets[name]
	outlived := outlivedSecrets(secrets, auth)
	l := foldLineage(name, revisions, pointers, secrets, auth)
	if gone := l.history.outlived(s.history, revisions, l.revisions); len(gone) > 0 {
		outlived = append(outlived, gone...)
		l = foldLineage(name, without(revisions, gone), without(pointers, gone), secrets, auth)
	}
	l.outlived = outlived
	return l
}

func foldLineage(name string, revisions, pointers, secrets []*entry, auth *authority) *lineage {
	l := &lineage{
		revisions: map[perigee.Digest]*entry{}, named: map[perigee.RevisionID]perigee.Digest{}, secrets: foldSecrets(secrets, auth),
	}
	judge := judge{auth: auth, revision: func(_ string, id perigee.Digest) *entry { return l.revisions[id] }}
	for _, e := range revisions {
		if judge.verdict(e) != nil {
			continue
		}
		l.revisions[e.id] = e
		// Short names collide by chance once in 2^48; the older revision keeps its name.
		if _, taken := l.named[e.revision.ID]; !taken {
			l.named[e.revision.ID] = e.id
		}
	}
	l.history = newHistory(pointers, revisions, func(h *history, e *entry) bool {
		judge.pointer = func(_ string, id perigee.Digest) *entry { return h.pointer(id) }
		return judge.verdict(e) == nil
	}, auth.placesOnly)
	win := l.history.winner()
	if win == nil {
		return l
	}
	live := l.revisions[win.body.(*record.Pointer).Revision]
	if live == nil {
		return l
	}
	l.fn = &perigee.Function{
		Name: name, Live: live.revision, Head: win.id, Placement: win.body.(*record.Pointer).Placement, Rollout: win.body.(*record.Pointer).Rollout,
		History: l.list(revisions, live.revision.ID), Kept: l.kept(live),
	}
	heads := l.history.heads
	for _, e := range heads[:len(heads)-1] {
		c := perigee.Conflict{Pointer: e.id, Author: e.rec.Key, Created: e.rec.HLC.Time().UTC()}
		if rev := l.revisions[e.body.(*record.Pointer).Revision]; rev != nil {
			c.Revision = rev.revision.ID
		}
		l.fn.Conflicts = append(l.fn.Conflicts, c)
	}
	return l
}

// foldSecrets returns the latest value of each secret; nil = there is none.
func foldSecrets(list []*entry, auth *authority) map[string]*perigee.Secret {
	var out map[string]*perigee.Secret
	for _, e := range list {
		if auth.allows(e) != nil {
			continue
		}
		if out == nil {
			out = map[string]*perigee.Secret{}
		}
		body := e.body.(*record.Secret)
		if delete(out, body.Name); len(body.Sealed) > 0 {
			out[body.Name] = &perigee.Secret{
				Name: body.Name, Version: uint64(e.rec.HLC), Author: e.rec.Key, Created: e.rec.HLC.Time().UTC(), Sealed: body.Sealed,
			}
		}
	}
	return out
}

func secretsOf(lineages map[string]*lineage) map[string]map[string]*perigee.Secret {
	out := map[string]map[string]*perigee.Secret{}
	for name, l := range lineages {
		if len(l.secrets) > 0 {
			out[name] = l.secrets
		}
	}
	return out
}

// maxServed bounds how many revisions that served before are kept beside the live one.
const maxServed = 2

// kept returns the revisions, apart from the live one, that holders keep what they have of: those that
// served before it, newest first and back to a removal at most, and those of conflicts.
func (l *lineage) kept(live *entry) (out []*perigee.Revision) {
	add := func(pointer *entry) {
		rev := l.revisions[pointer.body.(*record.Pointer).Revision]
		if rev != nil && rev != live && !slices.Contains(out, rev.revision) {
			out = append(out, rev.revision)
		}
	}
	for _, e := range l.history.replacedBy(l.history.winner()) {
		if len(out) == maxServed || e.body.(*record.Pointer).Revision.IsZero() {
			break
		}
		add(e)
	}
	for _, e := range slices.Backward(l.history.heads) {
		add(e)
	}
	return out
}

// list returns the newest revisions first, the live one always among them.
func (l *lineage) list(revisions []*entry, live perigee.RevisionID) []perigee.RevisionID {
	out := make([]perigee.RevisionID, 0, min(len(revisions), maxHistory))
	for _, e := range slices.Backward(revisions) {
		if l.revisions[e.id] == nil {
			continue
		}
		if len(out) == maxHistory {
			if !slices.Contains(out, live) {
				out[maxHistory-1] = live
			}
			break
		}
		out = append(out, e.revision.ID)
	}
	return out
}

// contest returns the live functions. A route that several of them ask for belongs to the one whose
// claim is oldest, and is listed as contested on the others.
func contest(lineages map[string]*lineage, domain string) map[string]*perigee.Function {
	functions := make(map[string]*perigee.Function, len(lineages))
	wanted := make(map[perigee.Route][]string, len(lineages))
	for name, l := range lineages {
		if l.fn == nil {
			continue
		}
		functions[name] = l.fn
		for _, r := range l.fn.Live.Manifest.FullRoutes(domain) {
			if !slices.Contains(wanted[r], name) {
				wanted[r] = append(wanted[r], name)
			}
		}
	}
	for route, names := range wanted {
		if len(names) < 2 {
			continue
		}
		owner := oldestClaim(lineages, names, route, domain)
		for _, name := range names {
			if name != owner {
				fn := *functions[name] // the lineage's own stays as it is
				fn.Contested = append(slices.Clone(fn.Contested), perigee.ContestedRoute{Route: route, Owner: owner})
				slices.SortFunc(fn.Contested, func(a, b perigee.ContestedRoute) int {
					return cmp.Or(cmp.Compare(a.Route.Host, b.Route.Host), cmp.Compare(a.Route.Path, b.Route.Path))
				})
				functions[name] = &fn
			}
		}
	}
	return functions
}

func oldestClaim(lineages map[string]*lineage, names []string, route perigee.Route, domain string) (owner string) {
	var since stamp
	for _, name := range names {
		l := lineages[name]
		at := l.history.claimed(func(id perigee.Digest) bool {
			rev := l.revisions[id]
			return rev != nil && slices.Contains(rev.revision.Manifest.FullRoutes(domain), route)
		})
		if owner == "" || cmp.Or(cmp.Compare(at.hlc, since.hlc), compareDigests(at.id, since.id)) < 0 {
			owner, since = name, at
		}
	}
	return owner
}

// foldRegions applies the region records to the built-in catalogue; the latest of a code wins.
func foldRegions(list []*entry, auth *authority) *perigee.Regions {
	var infos []perigee.RegionInfo
	for _, e := range list {
		if auth.allows(e) == nil {
			infos = append(infos, e.body.(*record.Region).Info)
		}
	}
	if infos == nil {
		return perigee.BuiltinRegions()
	}
	return perigee.BuiltinRegions().With(infos...)
}

// foldPurges returns what is not to be used any more.
func foldPurges(all map[string][]*entry, lately int, auth *authority) map[string][]*perigee.Purge {
	out := map[string][]*perigee.Purge{}
	for function, list := range all {
		for _, e := range without(list, outlivedPurges(list, lately, auth)) {
			if auth.allows(e) == nil {
				out[function] = append(out[function], &perigee.Purge{
					PurgeMatch: e.body.(*record.Purge).PurgeMatch, ID: e.id, Author: e.rec.Key, Created: e.rec.HLC.Time().UTC(),
				})
			}
		}
	}
	return out
}

// foldWeb returns what nodes share to answer HTTPS; the latest of each counts.
func foldWeb(all map[perigee.WebName][]*entry, auth *authority) map[perigee.WebName]*perigee.WebEntry {
	out := make(map[perigee.WebName]*perigee.WebEntry, len(all))
	for name, list := range all {
		for _, e := range slices.Backward(list) {
			if auth.allows(e) != nil {
				continue
			}
			w := e.body.(*record.Web)
			out[name] = &perigee.WebEntry{WebName: name, Version: w.Version, Created: e.rec.HLC.Time().UTC(), By: e.signer.ID, Sealed: w.Sealed}
			if w.Expires > 0 {
				out[name].Expires = time.Unix(w.Expires, 0).UTC()
			}
			break
		}
	}
	return out
}

func (a *authority) revokedNodes() map[perigee.NodeID]bool {
	revoked := map[perigee.NodeID]bool{}
	for id := range a.nodeEnd {
		revoked[id] = true
	}
	for id, key := range a.nodes {
		if a.nodeRevoked(id, key) {
			revoked[id] = true
		}
	}
	return revoked
}

// revision returns a function's revision record; nil when it has no effect or is not there.
func (f *folded) revision(function string, id perigee.Digest) *entry {
	if l := f.lineages[function]; l != nil {
		return l.revisions[id]
	}
	return nil
}

// pointer returns a function's pointer record; nil when it has no effect or is not there.
func (f *folded) pointer(function string, id perigee.Digest) *entry {
	if l := f.lineages[function]; l != nil {
		return l.history.pointer(id)
	}
	return nil
}

// heads returns the pointers of a function that nothing replaces.
func (f *folded) heads(function string) (ids []perigee.Digest) {
	if l := f.lineages[function]; l != nil {
		for _, e := range l.history.heads {
			ids = append(ids, e.id)
		}
	}
	return ids
}

// past returns what a pointer that replaces the heads of a function should name beyond them.
func (f *folded) past(function string) []perigee.Digest {
	if l := f.lineages[function]; l != nil {
		return l.history.past()
	}
	return nil
}

// judge decides whether records have an effect, given who may write what, and which revisions and earlier
// pointers have one. Its functions return nil for what has none or is not there.
type judge struct {
	auth     *authority
	revision func(function string, id perigee.Digest) *entry
	pointer  func(function string, id perigee.Digest) *entry
}

// verdict says why an admitted record has no effect; nil when it has.
func (j judge) verdict(e *entry) *RefusedError {
	if e.governs() {
		return j.auth.verdicts[e.id]
	}
	if err := j.auth.allows(e); err != nil {
		return err
	}
	switch body := e.body.(type) {
	case *record.Revision:
		if e.broken != nil {
			return refuse(RuleManifest, "the manifest of %s breaks a rule", body.Manifest.Name).because(e.broken)
		}
	case *record.Pointer:
		if e.broken != nil {
			return refuse(RuleManifest, "the placement for %s breaks a rule", body.Function).because(e.broken)
		}
		return j.judgePointer(e, body)
	}
	return nil
}

// judgePointer: the revision must have an effect, belong to the function, and claim nothing beyond the
// scope of the pointer's author.
func (j judge) judgePointer(e *entry, p *record.Pointer) *RefusedError {
	if p.Revision.IsZero() {
		return nil
	}
	rev := j.revision(p.Function, p.Revision)
	if rev == nil {
		return refuse(RuleReference, "%s is not known here as a revision of function %s: submit the revision before or with its pointer", p.Revision, p.Function)
	}
	m := rev.body.(*record.Revision).Manifest
	if p.Placement != nil {
		m.Placement = *p.Placement
	}
	return j.auth.allowsLive(e, &m, func() *RefusedError { return j.keepsCode(e, p) })
}

// keepsCode says why a pointer does more than place the code that is live: it must replace something, and
// everything that it replaces must be pointers to the same revision, which spreads in the same way. Beyond
// these it may name as its past only what they name, or it could end pointers that are on their way.
func (j judge) keepsCode(e *entry, p *record.Pointer) *RefusedError {
	var past []perigee.Digest
	for _, id := range e.rec.Parents {
		was := j.pointer(p.Function, id)
		if was == nil {
			return refuse(RuleReference, "what the change replaces is not known here: try again in a moment")
		}
		if old := was.body.(*record.Pointer); old.Revision != p.Revision || old.Rollout != p.Rollout {
			return refuse(RuleScope, "key %s may change where %s runs, and not its code: ask an operator for a wider token", e.rec.Key, p.Function)
		}
		past = append(past, names(was)...)
	}
	if slices.ContainsFunc(p.Past, func(id perigee.Digest) bool { return !slices.Contains(past, id) }) {
		return refuse(RuleScope, "key %s may replace what it placed, and no other pointer of %s: ask an operator for a wider token", e.rec.Key, p.Function)
	}
	if len(e.rec.Parents) == 0 {
		return refuse(RuleScope, "key %s may change where %s runs, and not make it live: ask an operator for a wider token", e.rec.Key, p.Function)
	}
	return nil
}
