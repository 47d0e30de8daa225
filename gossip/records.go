package gossip

import (
	"cmp"
	"crypto/ed25519"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// entry is one record, decoded once. It is changed only by parse and by the first authority that
// admits it, which both come before it is shared.
type entry struct {
	id   perigee.Digest
	raw  []byte
	rec  *record.Record
	body record.Payload

	// The key that made the signature; nil until an authority admitted the record.
	author ed25519.PublicKey
	sealed bool // it comes from this node's own snapshot, so that the signature was found good before

	// Of a redemption: who signed it, as its certificate chain proves, and the key of the token,
	// once the bearer's proof was checked with it.
	signer    perigee.NodeClaims
	signerKey ed25519.PublicKey
	tokenKey  ed25519.PublicKey

	// Of a revision: how the View shows it. Of a revision and a pointer: the rule that its manifest or
	// placement breaks (nil = none). Such a record is kept, since other releases may judge otherwise,
	// but has no effect.
	revision *perigee.Revision
	broken   error
}

// compareEntries is the one order of records: by clock, then by identity. It is total, and the
// same on every node.
func compareEntries(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.rec.HLC, b.rec.HLC), compareDigests(a.id, b.id))
}

func compareDigests(a, b perigee.Digest) int { return slices.Compare(a[:], b[:]) }

// governs reports whether the record decides what others may write.
func (e *entry) governs() bool {
	switch e.rec.Kind {
	case record.KindGenesis, record.KindToken, record.KindRedeem, record.KindRevoke:
		return true
	}
	return false
}

// function returns the name of the function that the record is about; "" = none.
func (e *entry) function() string {
	switch body := e.body.(type) {
	case *record.Revision:
		return body.Manifest.Name
	case *record.Pointer:
		return body.Function
	case *record.Secret:
		return body.Function
	}
	return ""
}

// set is the records that this node holds on disk: all that ever came, but for those that are outlived (see
// collect.go). It is not safe for concurrent use; the writer's lock guards it.
type set struct {
	history   int // revisions of a function that served and stay
	byID      map[perigee.Digest]*entry
	governing []*entry                     // genesis, token, redeem and revoke records, sorted
	regions   []*entry                     // sorted
	revisions map[string][]*entry          // by function, sorted
	pointers  map[string][]*entry          // by function, sorted
	secrets   map[string][]*entry          // by function, sorted
	web       map[perigee.WebName][]*entry // sorted
	purges    map[string][]*entry          // by function, sorted
	lately    int                          // purges of a function that stay
	tree      tree
	bytes     int64 // of all encoded records
}

func newSet() *set {
	return &set{
		history: maxHistory, lately: perigee.MaxPurges, purges: map[string][]*entry{},
		byID: map[perigee.Digest]*entry{}, revisions: map[string][]*entry{}, pointers: map[string][]*entry{}, secrets: map[string][]*entry{}, web: map[perigee.WebName][]*entry{}, tree: newTree(),
	}
}

// add inserts entries that are not in the set yet; others are ignored.
func (s *set) add(entries ...*entry) {
	touched := map[int]bool{}
	for _, e := range entries {
		if s.byID[e.id] != nil {
			continue
		}
		s.byID[e.id] = e
		s.bytes += int64(len(e.raw))
		touched[s.tree.insert(e)] = true
		s.insert(e)
	}
	s.tree.rehash(touched)
}

// insert puts an entry into the list of its kind.
func (s *set) insert(e *entry) {
	switch body := e.body.(type) {
	case *record.Region:
		s.regions = insertSorted(s.regions, e)
	case *record.Revision:
		s.revisions[body.Manifest.Name] = insertSorted(s.revisions[body.Manifest.Name], e)
	case *record.Pointer:
		s.pointers[body.Function] = insertSorted(s.pointers[body.Function], e)
	case *record.Secret:
		s.secrets[body.Function] = insertSorted(s.secrets[body.Function], e)
	case *record.Web:
		name := perigee.WebName{Item: body.Item, Name: body.Name}
		s.web[name] = insertSorted(s.web[name], e)
	case *record.Purge:
		s.purges[body.Function] = insertSorted(s.purges[body.Function], e)
	default:
		s.governing = insertSorted(s.governing, e)
	}
}

// remove takes entries out that are in the set.
func (s *set) remove(entries []*entry) {
	if len(entries) == 0 {
		return
	}
	gone := make(map[*entry]bool, len(entries))
	for _, e := range entries {
		gone[e] = true
	}
	touched := map[int]bool{}
	functions, web, purges := map[string]bool{}, map[perigee.WebName]bool{}, map[string]bool{}
	for e := range gone {
		delete(s.byID, e.id)
		s.bytes -= int64(len(e.raw))
		touched[s.tree.remove(e)] = true
		functions[e.function()] = true
		if w, ok := e.body.(*record.Web); ok {
			web[perigee.WebName{Item: w.Item, Name: w.Name}] = true
		}
		if p, ok := e.body.(*record.Purge); ok {
			purges[p.Function] = true
		}
	}
	s.regions = dropFrom(s.regions, gone)
	for name := range functions {
		for _, lists := range []map[string][]*entry{s.revisions, s.pointers, s.secrets} {
			dropFromMap(lists, name, gone)
		}
	}
	for name := range web {
		dropFromMap(s.web, name, gone)
	}
	for name := range purges {
		dropFromMap(s.purges, name, gone)
	}
	s.tree.rehash(touched)
}

// dropFrom returns a list without some entries; the old one stays as it is.
func dropFrom(list []*entry, gone map[*entry]bool) (rest []*entry) {
	for _, e := range list {
		if !gone[e] {
			rest = append(rest, e)
		}
	}
	return rest
}

func dropFromMap[K comparable](lists map[K][]*entry, key K, gone map[*entry]bool) {
	rest := dropFrom(lists[key], gone)
	if lists[key] = rest; rest == nil {
		delete(lists, key)
	}
}

// insertSorted returns a list with e in its place. Most records come in the order of their clocks,
// so that the place is the end. Lists are shared with readers only through copies that reduce makes.
func insertSorted(list []*entry, e *entry) []*entry {
	if n := len(list); n == 0 || compareEntries(list[n-1], e) < 0 {
		return append(list, e)
	}
	at, _ := slices.BinarySearchFunc(list, e, compareEntries)
	return slices.Insert(list, at, e)
}
