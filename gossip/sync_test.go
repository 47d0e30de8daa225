package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// handlerOf returns a node's handler, as a peer named syd-1 reaches it.
func handlerOf(n *testNode) *handler { return n.Handler().(*handler) }

// caller answers a question in a peer's place.
type caller func(ask Message) (Message, error)

// direct calls a handler without a network.
func direct(h *handler) caller {
	return func(ask Message) (Message, error) {
		body, err := encode(ask)
		if err != nil {
			return nil, err
		}
		reply, err := h.answer(context.Background(), "syd-1", pathOf(ask), body)
		if err != nil {
			return nil, err
		}
		tell := newTell(pathOf(ask))
		return tell, decode(reply, tell)
	}
}

// compare runs one comparison with a peer; pushes to others get nowhere.
func (g *Gossip) compare(call caller) (differed bool, peer perigee.NodeID, err error) {
	ended := false
	g.core.out = Effects{}
	g.core.compare(time.Now(), Peer{ID: "peer"}, func(_ time.Time, p perigee.NodeID, d bool, e error) {
		ended, differed, peer, err = true, d, p, e
	})
	for todo := []Effects{g.core.out}; len(todo) > 0; todo = todo[1:] {
		out := todo[0]
		for _, c := range out.Calls {
			tell, err := call(c.Message)
			if err != nil {
				todo = append(todo, g.stepCore(Failed{c.Number, err}))
			} else {
				todo = append(todo, g.stepCore(Answered{c.Number, tell}))
			}
		}
		todo = append(todo, g.disk.store(out.Store, g.stepCore)...)
	}
	if !ended {
		err = errors.New("the comparison does not end")
	}
	return differed, peer, err
}

// take gives a node records as a peer does; it returns those that are held, and how many are new.
func (g *Gossip) take(raws [][]byte) (held []perigee.Digest, fresh int, err error) {
	before := len(g.core.set.byID)
	for chunk := range slices.Chunk(raws, maxItems) {
		clear(g.core.limits)
		reply, err := ask(context.Background(), g, g.replies, func(number uint64) Event {
			return Asked{"syd-1", number, &pushAsk{Version: wireVersion, Records: chunk}}
		})
		if err := errors.Join(err, reply.Err); err != nil {
			return held, 0, err
		}
		ids, _ := unpackDigests(reply.Message.(*pushTell).Held)
		held = append(held, ids...)
	}
	return held, len(g.core.set.byID) - before, nil
}

// takeRow gives a node a row.
func (g *Gossip) takeRow(raw []byte, now time.Time) (id perigee.NodeID, kept bool, err error) {
	var echo mark
	id, kept, err = g.core.rows.takeOne(raw, now, &echo)
	if echo.Node != "" {
		g.own.outrun(echo)
	}
	return id, kept, err
}

// signOwn puts a node's own row into its table.
func (n *testNode) signOwn() {
	now := time.Now()
	raw, row, _, err := n.own.sign(now)
	if err != nil {
		panic(err)
	}
	n.core.rows.rows[n.self] = ownRowState(raw, row, n.conf.Identity, now)
}

// TestCompare makes two nodes equal that each have something, without any pushes.
func TestCompare(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("fra-1", "fra"), w.node("syd-1", "syd")
	raws := busy(w)
	var big [][]byte // more than fits into one message of a kind
	for i := range 40 {
		m := manifest(fmt.Sprintf("big%d", i))
		m.Env = map[string]string{"X": strings.Repeat("x", 200<<10)}
		rev, _ := w.deploy("operator", m)
		big = append(big, rev)
	}
	if _, _, err := a.take(slices.Concat(raws[:len(raws)/2], big)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.take(raws[len(raws)/2:]); err != nil {
		t.Fatal(err)
	}
	a.signOwn()
	a.takeRow(w.row(perigee.NodeClaims{ID: "ams-1", Region: "ams"}, "ams-1", func(*perigee.Row) {}), time.Now())
	b.takeRow(w.row(perigee.NodeClaims{ID: "wdc-1", Region: "wdc"}, "wdc-1", func(*perigee.Row) {}), time.Now())

	// Twice, since what waited in b for its author can be given only after the author came.
	for range 2 {
		differed, peer, err := b.compare(direct(handlerOf(a)))
		if err != nil || !differed || peer != "fra-1" {
			t.Fatalf("compare: %v, %q, %v", differed, peer, err)
		}
	}
	if a.core.Root() != b.core.Root() || len(a.core.set.byID) < len(big)+20 {
		t.Errorf("a has %d records, b %d", len(a.core.set.byID), len(b.core.set.byID))
	}
	if differed, _, err := b.compare(direct(handlerOf(a))); err != nil || differed {
		t.Errorf("a comparison of equals: %v, %v, want no difference", differed, err)
	}
	for n, ids := range map[*testNode][]perigee.NodeID{a: {"wdc-1", "ams-1"}, b: {"fra-1", "wdc-1", "ams-1"}} {
		for _, id := range ids {
			if n.core.rows.rows[id] == nil {
				t.Errorf("%s has no row of %s", n.self, id)
			}
		}
	}
}

// TestHostilePeer compares with peers that lie. Each comparison must end, with a bounded number of
// messages, and change nothing.
func TestHostilePeer(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	n.submit(t, slices.Concat(w.person("dep", record.TokenDeploy, record.Scope{}))...)
	stranger, _ := w.deploy("mallory", manifest("evil"))
	otherRoot := bytes.Repeat([]byte{5}, buckets*32)
	lie := syncTell{Version: wireVersion, Node: "evil", Sums: otherRoot}
	var many []perigee.Digest
	for i := range 3000 {
		many = append(many, perigee.Digest{byte(i), byte(i >> 8), 7})
	}
	full := func(ask *idsAsk, list []byte) *idsTell {
		tell := &idsTell{}
		for range ask.Buckets {
			tell.IDs = append(tell.IDs, nil)
		}
		tell.IDs[0] = list
		return tell
	}
	tests := []struct {
		name   string
		answer func(path string, ask Message) (any, error)
		most   int // messages
		fails  bool
	}{
		{"gives nothing", func(path string, ask Message) (any, error) {
			switch path {
			case pathSync:
				return &lie, nil
			case pathIDs:
				return full(ask.(*idsAsk), packDigests(many)), nil
			}
			return &getTell{}, nil
		}, 3, true},
		{"gives other records than asked for", func(path string, ask Message) (any, error) {
			switch path {
			case pathSync:
				return &lie, nil
			case pathIDs:
				return full(ask.(*idsAsk), packDigests(many)), nil
			}
			return &getTell{Records: [][]byte{stranger, []byte("x"), w.genesis}}, nil
		}, 3, true},
		{"gives what nobody may write", func(path string, ask Message) (any, error) {
			switch path {
			case pathSync:
				return &lie, nil
			case pathIDs:
				return full(ask.(*idsAsk), packDigests([]perigee.Digest{record.ID(stranger), record.ID([]byte("junk"))})), nil
			}
			return &getTell{Records: [][]byte{stranger, []byte("junk")}}, nil
		}, 4, false},
		{"no buckets", func(path string, ask Message) (any, error) {
			if path == pathSync {
				return &lie, nil
			}
			return &idsTell{}, nil
		}, 2, true},
		{"too many buckets", func(path string, ask Message) (any, error) {
			if path == pathSync {
				return &lie, nil
			}
			return &idsTell{IDs: make([][]byte, buckets+1)}, nil
		}, 2, true},
		{"more buckets than asked for", func(path string, ask Message) (any, error) {
			if path == pathSync {
				return &syncTell{Version: wireVersion, Sums: append(bytes.Repeat([]byte{5}, 32), n.core.set.tree.packSums()[32:]...)}, nil
			}
			return &idsTell{IDs: make([][]byte, 2)}, nil
		}, 2, true},
		{"odd identities", func(path string, ask Message) (any, error) {
			if path == pathSync {
				return &lie, nil
			}
			return full(ask.(*idsAsk), make([]byte, 33)), nil
		}, 2, true},
		{"too many identities", func(path string, ask Message) (any, error) {
			if path == pathSync {
				return &lie, nil
			}
			return full(ask.(*idsAsk), make([]byte, 32*(maxIDs+1))), nil
		}, 2, true},
		{"short digests", func(path string, ask Message) (any, error) {
			return &syncTell{Version: wireVersion, Sums: otherRoot[1:]}, nil
		}, 1, true},
		{"another version", func(path string, ask Message) (any, error) { return &syncTell{Version: 9}, nil }, 1, true},
		{"has newer rows of everybody, and gives none", func(path string, ask Message) (any, error) {
			marks := make([]mark, maxNodes)
			for i := range marks {
				marks[i] = mark{Node: perigee.NodeID(fmt.Sprint("n-", i)), Incarnation: 1 << 60}
			}
			if path == pathRows {
				if got := len(ask.(*rowsAsk).Nodes); got > maxItems {
					t.Errorf("asks for %d rows", got)
				}
				return &rowsTell{}, nil
			}
			return &syncTell{Version: wireVersion, Marks: marks, Root: n.core.Root()}, nil
		}, 2, false},
		{"more marks than nodes", func(path string, ask Message) (any, error) {
			return &syncTell{Version: wireVersion, Marks: make([]mark, maxNodes+1)}, nil
		}, 1, true},
		{"more rows than asked for", func(path string, ask Message) (any, error) {
			if path == pathRows {
				return &rowsTell{Rows: make([][]byte, maxItems+1)}, nil
			}
			return &syncTell{Version: wireVersion, Marks: []mark{{Node: "new-1"}}, Root: n.core.Root()}, nil
		}, 2, true},
		{"gives up", func(path string, ask Message) (any, error) { return nil, errors.New("refused") }, 1, true},
	}
	n.signOwn()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, calls := n.core.Root(), 0
			_, _, err := n.compare(func(ask Message) (Message, error) {
				calls++
				path := pathOf(ask)
				if path == pathPush {
					return &pushTell{}, nil // what this node has and the peer pretends to lack
				}
				answer, err := tt.answer(path, ask)
				if err != nil {
					return nil, err
				}
				b, err := record.Marshal(answer)
				w.must(err)
				tell := newTell(path)
				return tell, decode(b, tell)
			})
			if (err != nil) != tt.fails {
				t.Errorf("compare: %v, want an error: %v", err, tt.fails)
			}
			if calls > tt.most {
				t.Errorf("%d messages, want at most %d", calls, tt.most)
			}
			if n.core.Root() != before {
				t.Error("the state changed")
			}
		})
	}
	t.Run("what was refused is not fetched again", func(t *testing.T) {
		missing, _ := n.core.diff(3, []perigee.Digest{record.ID(stranger), record.ID([]byte("junk")), {1}})
		if len(missing) != 1 {
			t.Errorf("%d are missing, want only the one never seen", len(missing))
		}
	})
}

func TestHandler(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra", func(c *Config) { c.MaxState = 4 * perigee.KiB })
	n.submit(t, w.sign("operator", nil, &record.Revoke{Node: "gone-1"}))
	rev, ptr := w.deploy("operator", manifest("hello"))
	good, err := encode(&pushAsk{Version: wireVersion, Records: [][]byte{rev, ptr}})
	w.must(err)
	m := manifest("huge")
	m.Env = map[string]string{"X": strings.Repeat("x", 5<<10)}
	huge, _ := w.deploy("operator", m)
	full, err := encode(&pushAsk{Version: wireVersion, Records: [][]byte{huge}})
	w.must(err)
	tests := []struct {
		name   string
		method string
		peer   perigee.NodeID
		path   string
		body   []byte
		status int
	}{
		{"good", "POST", "syd-1", pathPush, good, 200},
		{"nobody", "POST", "", pathPush, good, 403},
		{"revoked", "POST", "gone-1", pathPush, good, 403},
		{"GET", "GET", "syd-1", pathSync, nil, 405},
		{"unknown path", "POST", "syd-1", "/gossip/secret", nil, 404},
		{"garbage", "POST", "syd-1", pathSync, []byte("garbage"), 400},
		{"empty", "POST", "syd-1", pathGet, nil, 400},
		{"too large", "POST", "syd-1", pathPush, make([]byte, maxMessage+1), 400},
		{"state full", "POST", "syd-1", pathPush, full, 507},
	}
	h := n.Handler()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, bytes.NewReader(tt.body))
			if tt.peer != "" {
				r = r.WithContext(context.WithValue(r.Context(), peerKey{}, perigee.NodeClaims{ID: tt.peer}))
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code != tt.status {
				t.Fatalf("status %d, want %d: %s", rec.Code, tt.status, rec.Body)
			}
			if tt.status != http.StatusOK {
				return
			}
			var tell pushTell
			if err := decode(rec.Body.Bytes(), &tell); err != nil || len(tell.Held) != 64 {
				t.Errorf("answer %+v, %v, want two records held", tell, err)
			}
		})
	}
	t.Run("too many at once", func(t *testing.T) {
		busy := handlerOf(n)
		for range maxHandlers {
			busy.slots <- struct{}{}
		}
		r := httptest.NewRequest("POST", pathSync, nil)
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, perigee.NodeClaims{ID: "syd-1"}))
		rec := httptest.NewRecorder()
		busy.ServeHTTP(rec, r)
		if rec.Code != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503", rec.Code)
		}
	})
	t.Run("too fast", func(t *testing.T) {
		push := func(peer perigee.NodeID, ask *pushAsk) bool {
			t.Helper()
			reply, err := askCore(n.Gossip, peer, ask)
			w.must(err)
			return len(reply.(*pushTell).Held) > 0
		}
		most := &pushAsk{Version: wireVersion, Records: slices.Repeat([][]byte{rev}, maxItems)}
		answered := 0
		for range 20 {
			if push("ams-1", most) {
				answered++
			}
		}
		if answered < verifyBurst/maxItems || answered > verifyBurst/maxItems+2 {
			t.Errorf("%d messages of %d records are looked at, want about %d", answered, maxItems, verifyBurst/maxItems)
		}
		if !push("wdc-1", &pushAsk{Version: wireVersion, Records: [][]byte{rev}}) {
			t.Error("one peer's haste slows another down")
		}
	})
}

func askCore(g *Gossip, peer perigee.NodeID, m Message) (Message, error) {
	reply, err := ask(context.Background(), g, g.replies, func(number uint64) Event { return Asked{peer, number, m} })
	return reply.Message, errors.Join(err, reply.Err)
}

// TestMessageSizes builds the largest answers that a node gives, and checks that they can be read.
func TestMessageSizes(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	for i := range 40 {
		id := perigee.NodeID(fmt.Sprintf("n-%d", i))
		n.core.rows.rows[id] = &rowState{raw: make([]byte, maxRowSize), row: perigee.Row{Node: id, Seq: 1}}
	}
	var entries []*entry
	for i := range 3000 {
		raw := append(fmt.Append(nil, i, " "), make([]byte, 5000)...)
		entries = append(entries, &entry{id: record.ID(raw), raw: raw, rec: &record.Record{Kind: record.KindRegion}, body: &record.Region{}})
	}
	n.core.set.add(entries...)
	h := handlerOf(n)
	var nodes []perigee.NodeID
	for id := range n.core.rows.rows {
		nodes = append(nodes, id)
	}
	m, err := askCore(n.Gossip, "syd-1", &rowsAsk{Version: wireVersion, Nodes: nodes})
	w.must(err)
	tell := m.(*rowsTell)
	if b, err := encode(tell); err != nil || decode(b, &rowsTell{}) != nil || len(tell.Rows) == 0 || len(tell.Rows) == 40 {
		t.Errorf("an answer of %d bytes with %d rows: %v", len(b), len(tell.Rows), err)
	}
	for i := range maxNodes + 10 {
		id := perigee.NodeID(fmt.Sprintf("a-node-with-a-name-that-is-as-long-as-labels-may-be-%011d", i))
		n.core.rows.rows[id] = &rowState{row: perigee.Row{Node: id, Incarnation: 1 << 60, Seq: lastWord}}
	}
	m, err = askCore(n.Gossip, "syd-1", &syncAsk{Version: wireVersion})
	w.must(err)
	if b, err := encode(m); err != nil || decode(b, &syncTell{}) != nil || len(b) > maxBatch {
		t.Errorf("a sync answer of %d bytes: %v", len(b), err)
	}
	var all []byte
	for b := range buckets {
		all = append(all, byte(b))
	}
	ids := &idsTell{IDs: h.core.bucketIDs(all)}
	if b, err := encode(ids); err != nil || decode(b, &idsTell{}) != nil || len(ids.IDs) != buckets {
		t.Errorf("an ids answer of %d bytes for %d buckets: %v", len(b), len(ids.IDs), err)
	}
	var want []perigee.Digest
	for _, e := range entries {
		want = append(want, e.id)
	}
	got := &getTell{Records: h.core.encoded(want)}
	if b, err := encode(got); err != nil || decode(b, &getTell{}) != nil || len(got.Records) < 800 {
		t.Errorf("a get answer of %d bytes with %d records: %v", len(b), len(got.Records), err)
	}
	if got := h.core.encoded([]perigee.Digest{{9, 9, 9}}); len(got) != 0 {
		t.Error("an unknown record is given")
	}
}

// FuzzAnswer feeds bytes to the handler of each message.
func FuzzAnswer(f *testing.F) {
	w := newWorld(&testing.T{})
	rev, ptr := w.deploy("operator", manifest("hello"))
	for path, m := range map[string]Message{
		pathSync: &syncAsk{Version: wireVersion},
		pathRows: &rowsAsk{Version: wireVersion, Nodes: []perigee.NodeID{"a"}},
		pathIDs:  &idsAsk{Version: wireVersion, Buckets: []byte{0, 1, 255}},
		pathGet:  &getAsk{Version: wireVersion, IDs: make([]byte, 64)},
		pathPush: &pushAsk{Version: wireVersion, Records: [][]byte{rev, ptr}, Rows: [][]byte{{1}}, Reach: ReachAll},
	} {
		b, err := encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, b)
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		w := *w
		w.t = t
		w.net = newNetwork()
		n := w.node("fra-1", "fra")
		reply, err := handlerOf(n).answer(t.Context(), "syd-1", path, body)
		if err == nil && len(reply) > maxMessage {
			t.Errorf("an answer of %d bytes", len(reply))
		}
		for name := range n.View().Desired.Functions {
			if name != "hello" {
				t.Errorf("function %s appeared, which nobody signed", name)
			}
		}
	})
}

// FuzzReply feeds bytes to a node as the answers of a peer.
func FuzzReply(f *testing.F) {
	w := newWorld(&testing.T{})
	rev, ptr := w.deploy("operator", manifest("hello"))
	add := func(tell syncTell, ids idsTell, get getTell) {
		a, errA := encode(&tell)
		b, errB := encode(&ids)
		c, errC := encode(&get)
		if err := errors.Join(errA, errB, errC); err != nil {
			f.Fatal(err)
		}
		f.Add(a, b, c)
	}
	ids := idsTell{IDs: make([][]byte, buckets)}
	ids.IDs[7] = packDigests([]perigee.Digest{record.ID(rev), record.ID(ptr)})
	add(syncTell{Version: wireVersion, Node: "syd-1", Now: 1, Marks: []mark{{Node: "a", Incarnation: 1, Seq: 2}}}, ids, getTell{Records: [][]byte{rev, ptr}})
	f.Fuzz(func(t *testing.T, sync, ids, get []byte) {
		w := *w
		w.t = t
		w.net = newNetwork()
		n := w.node("fra-1", "fra")
		calls := 0
		_, _, err := n.compare(func(ask Message) (Message, error) {
			if calls++; calls > 2000 {
				return nil, errors.New("enough")
			}
			if _, err := encode(ask); err != nil {
				t.Errorf("asks what can't be encoded: %v", err)
			}
			path := pathOf(ask)
			tell := newTell(path)
			err := decode(map[string][]byte{pathSync: sync, pathRows: get, pathIDs: ids, pathGet: get, pathPush: {0xa0}}[path], tell)
			if s, ok := tell.(*syncTell); ok && len(s.Sums) == 0 {
				s.Sums = make([]byte, buckets*32) // all buckets differ; as input it would only slow the fuzzer down
			}
			return tell, err
		})
		if calls > 2000 || err != nil && strings.Contains(err.Error(), "does not end") {
			t.Fatal("the comparison does not end")
		}
	})
}

// FuzzParse feeds bytes to the parser as records that are signed well: what it lets through must
// not hurt the fold.
func FuzzParse(f *testing.F) {
	w := newWorld(&testing.T{})
	for _, raw := range busy(w) {
		rec, err := record.Decode(raw)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(rec.Kind), rec.Payload)
	}
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		w := *w
		w.t = t
		rec := &record.Record{Version: record.Version, Cluster: w.cluster, Epoch: 1, Kind: record.Kind(kind), HLC: w.hlc + 1,
			Key: keyID("operator"), Parents: []perigee.Digest{}, Payload: payload, Signature: make([]byte, 64)}
		raw, err := record.Marshal(rec)
		if err != nil {
			t.Skip()
		}
		e, err := w.parser().parse(raw)
		if err != nil {
			if RuleOf(err) == "" {
				t.Errorf("refused without a rule: %v", err)
			}
			return
		}
		e.author = pub("operator")
		s, folded := w.fold(busy(&w)...)
		s.add(e)
		auth := newAuthority(folded.auth.genesis, s.governing)
		_ = describe(reduce(s, auth, nil, nil).desired)
	})
}
