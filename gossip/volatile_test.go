package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// row returns a signed row of a node; its key is named like the node unless who says otherwise.
func (w *world) row(claims perigee.NodeClaims, who string, change func(*perigee.Row)) []byte {
	w.t.Helper()
	r := perigee.Row{Node: claims.ID, Incarnation: 5, Seq: 1, Addr: addrOf(claims.ID), Version: "x"}
	change(&r)
	b, err := record.SignRow(key(who), w.chainOf(claims, pub(who)), r)
	w.must(err)
	return b
}

// TestRowChecks gives a node rows of all kinds.
func TestRowChecks(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	n := w.node("fra-1", "fra")
	n.submit(t, w.token("tok", record.TokenNode), w.redeem("tok", "bound-1", func(r *record.Redeem) { r.Node = "bound-1" }))
	n.submit(t, w.sign("operator", nil, &record.Revoke{Node: "revoked-1"}))
	syd := perigee.NodeClaims{ID: "syd-1", Region: "syd"}
	same := func(*perigee.Row) {}
	seq := func(inc, seq uint64) func(*perigee.Row) {
		return func(r *perigee.Row) { r.Incarnation, r.Seq = inc, seq }
	}
	good := w.row(syd, "syd-1", seq(5, 2))
	signed, _, err := record.DecodeRow(good)
	w.must(err)
	signed.Signature = slices.Clone(signed.Signature)
	signed.Signature[3] ^= 1
	forged, err := record.Marshal(signed)
	w.must(err)
	big := w.row(syd, "syd-1", func(r *perigee.Row) {
		r.Revisions = map[perigee.RevisionID]perigee.Warmth{}
		for i := range 20_000 {
			r.Revisions[perigee.RevisionID(fmt.Sprintf("%012x", i))] = perigee.Warm
		}
	})
	tests := []struct {
		name string
		raw  []byte
		kept bool
		text string // of the error; "" = none
	}{
		{"garbage", []byte{1, 2, 3}, false, "decode row"},
		{"too large", big, false, "limit"},
		{"good", good, true, ""},
		{"the same again", good, false, ""},
		{"older", w.row(syd, "syd-1", seq(5, 1)), false, ""},
		{"forged", forged, false, ""}, // not newer, so not looked at
		{"an older incarnation", w.row(syd, "syd-1", seq(4, 9)), false, ""},
		{"newer", w.row(syd, "syd-1", seq(5, 3)), true, ""},
		{"another incarnation", w.row(syd, "syd-1", seq(6, 0)), true, ""},
		{"another key", w.row(syd, "thief", seq(7, 0)), false, "second node uses the name"},
		{"another node's certificate", func() []byte {
			b, err := record.SignRow(key("ams-1"), w.chain(perigee.NodeClaims{ID: "ams-1", Region: "ams"}), perigee.Row{Node: "new-1", Addr: addrOf("new-1")})
			w.must(err)
			return b
		}(), false, "signed by node ams-1"},
		{"another cluster", other.row(perigee.NodeClaims{ID: "new-1", Region: "ams"}, "new-1", same), false, "certificate"},
		{"revoked", w.row(perigee.NodeClaims{ID: "revoked-1", Region: "ams"}, "revoked-1", same), false, "revoked"},
		{"bound to another key", w.row(perigee.NodeClaims{ID: "bound-1", Region: "ams"}, "thief", same), false, "belongs to another key"},
		{"bound to its key", w.row(perigee.NodeClaims{ID: "bound-1", Region: "ams"}, "bound-1", same), true, ""},
		{"no address", w.row(perigee.NodeClaims{ID: "x-1", Region: "ams"}, "x-1", func(r *perigee.Row) { r.Addr = netip.AddrPort{} }), false, "address"},
		{"an address with a zone", w.row(perigee.NodeClaims{ID: "x-1", Region: "ams"}, "x-1", func(r *perigee.Row) { r.Addr = netip.MustParseAddrPort("[fe80::1%eth0]:1") }), false, "address"},
		{"a long text", w.row(perigee.NodeClaims{ID: "x-1", Region: "ams"}, "x-1", func(r *perigee.Row) { r.Version = strings.Repeat("x", 300) }), false, "text"},
		{"warmer than warm", w.row(perigee.NodeClaims{ID: "x-1", Region: "ams"}, "x-1", func(r *perigee.Row) {
			r.Revisions = map[perigee.RevisionID]perigee.Warmth{"a": 9}
		}), false, "in state 9"},
		{"this node's name, another key", w.row(perigee.NodeClaims{ID: "fra-1", Region: "fra"}, "thief", seq(1<<60, 0)), false, "another key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, kept, err := n.takeRow(tt.raw, time.Now())
			if kept != tt.kept || (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("kept %v, %v, want %v and %q", kept, err, tt.kept, tt.text)
			}
		})
	}
	t.Run("forged and newer", func(t *testing.T) {
		signed, row, err := record.DecodeRow(good)
		w.must(err)
		row.Incarnation = 1 << 50
		signed.Row, err = record.Marshal(row)
		w.must(err)
		raw, err := record.Marshal(signed)
		w.must(err)
		if _, kept, err := n.takeRow(raw, time.Now()); kept || !errors.Is(err, record.ErrSignature) {
			t.Errorf("kept %v, %v", kept, err)
		}
	})
	t.Run("expired", func(t *testing.T) {
		raw := w.row(syd, "syd-1", seq(9, 0))
		if _, kept, err := n.takeRow(raw, time.Now().AddDate(0, 0, 40)); kept || err == nil || !strings.Contains(err.Error(), "ran out") {
			t.Errorf("kept %v, %v", kept, err)
		}
		signed, row, err := record.DecodeRow(n.core.rows.rows["syd-1"].raw)
		w.must(err)
		row.Seq++
		known, err := record.SignRow(key("syd-1"), signed.Chain, row) // a chain that was verified before
		w.must(err)
		if _, kept, err := n.takeRow(known, time.Now().AddDate(0, 0, 40)); kept || err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("kept %v, %v", kept, err)
		}
	})
	t.Run("renewed certificate", func(t *testing.T) {
		moved := syd
		moved.Zone = "b"
		if _, kept, err := n.takeRow(w.row(moved, "syd-1", seq(10, 0)), time.Now()); !kept || err != nil {
			t.Fatalf("kept %v, %v", kept, err)
		}
		if got := n.core.rows.rows["syd-1"].claims.Zone; got != "b" {
			t.Errorf("zone %q, want the new certificate's", got)
		}
	})
	t.Run("this node's former life", func(t *testing.T) {
		before := n.own.get()
		raw := w.row(signerClaims("fra-1"), "fra-1", seq(before.Incarnation+1000, 7))
		if _, kept, err := n.takeRow(raw, time.Now()); kept || err != nil {
			t.Errorf("kept %v, %v", kept, err)
		}
		if _, row, _, err := n.own.sign(time.Now()); err != nil || !markOf(&row).newer(mark{Incarnation: before.Incarnation + 1000, Seq: 7}) {
			t.Errorf("the next own row is %d/%d, %v", row.Incarnation, row.Seq, err)
		}
	})
	t.Run("key of a node by its row", func(t *testing.T) {
		if k, ok := n.NodeKey("syd-1"); !ok || !k.Equal(pub("syd-1")) {
			t.Error("NodeKey does not know the row's key")
		}
	})
}

// TestGoneRow drops a row and offers it again.
func TestGoneRow(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	syd := perigee.NodeClaims{ID: "syd-1", Region: "syd"}
	raw := w.row(syd, "syd-1", func(*perigee.Row) {})
	offer := func(raw []byte) bool {
		_, kept, err := n.takeRow(raw, time.Now())
		w.must(err)
		return kept
	}
	dead := func(*rowState) perigee.NodeState { return perigee.NodeDead }
	if !offer(raw) {
		t.Fatal("the row was not kept")
	}
	start := time.Now()
	n.core.rows.sweep(start, dead)
	if states, _, dropped := n.core.rows.sweep(start.Add(shownDead), dead); len(dropped) > 0 || states["syd-1"] != perigee.NodeDead {
		t.Fatalf("dropped %v too early", dropped)
	}
	if _, _, dropped := n.core.rows.sweep(start.Add(shownDead+time.Second), dead); !slices.Equal(dropped, []perigee.NodeID{"syd-1"}) {
		t.Fatalf("dropped %v", dropped)
	}
	if offer(raw) {
		t.Error("a peer brought the row back")
	}
	old, newer := mark{Node: "syd-1", Incarnation: 5, Seq: 1}, mark{Node: "syd-1", Incarnation: 6}
	if want := n.core.rows.lacks([]mark{old}, start); len(want) != 0 {
		t.Errorf("wants the row of %v, which it dropped", want)
	}
	if want := n.core.rows.lacks([]mark{newer}, start); len(want) != 1 {
		t.Error("does not want a newer row")
	}
	if !offer(w.row(syd, "syd-1", func(r *perigee.Row) { r.Seq++ })) {
		t.Error("a newer row was not kept")
	}
	n.core.rows.sweep(start.Add(shownDead+remembered+time.Minute), dead)
	if len(n.core.rows.gone) != 0 {
		t.Error("the mark of a dropped row is kept for ever")
	}
}

func TestLiveness(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const b, hold = baseBeat, 500 * time.Millisecond
	live := rowState{expires: now.Add(time.Hour), row: perigee.Row{Seq: 3}}
	left, expired, beating, stale := live, live, live, live
	left.row.Seq = lastWord
	expired.expires = ago(time.Second)
	beating.advanced, stale.advanced = ago(time.Second), ago(time.Minute)
	tests := []struct {
		name string
		row  rowState
		m    member
		want perigee.NodeState
	}{
		{"a member", live, member{alive: true, since: ago(time.Hour)}, perigee.NodeAlive},
		{"a member that does not answer", live, member{alive: true, failed: true}, perigee.NodeSuspect},
		{"said goodbye, still listed", left, member{alive: true}, perigee.NodeLeft},
		{"certificate over", expired, member{alive: true}, perigee.NodeDead},
		{"never heard of", live, member{}, ""},
		{"dead", live, member{since: ago(time.Second)}, perigee.NodeDead},
		{"dead since a moment", live, member{since: ago(hold / 2)}, perigee.NodeSuspect},
		{"dead, beat before", beating, member{since: ago(hold)}, perigee.NodeDead},
		{"dead, row still passed around", beating, member{since: ago(2 * time.Second)}, perigee.NodeDead},
		{"called dead, beats", beating, member{since: ago(3 * b)}, perigee.NodeSuspect},
		{"called dead, answers", live, member{since: ago(3 * time.Second), contact: ago(time.Second)}, perigee.NodeSuspect},
		{"called dead, answered before", live, member{since: ago(time.Second), contact: ago(3 * time.Second)}, perigee.NodeDead},
		{"called dead, answered, then not", live, member{since: ago(3 * time.Second), contact: ago(time.Second), failed: true}, perigee.NodeDead},
		{"not listed, beats", beating, member{}, perigee.NodeSuspect},
		{"not listed, called here", live, member{contact: ago(time.Second)}, perigee.NodeSuspect},
		{"not listed, silent for long", stale, member{contact: ago(time.Minute)}, perigee.NodeDead},
	}
	for _, tt := range tests {
		if got := liveness(now, &tt.row, tt.m, b, hold); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestFanout(t *testing.T) {
	peers := func(regions ...perigee.Region) (list []Peer) {
		for i, r := range regions {
			list = append(list, Peer{ID: perigee.NodeID(fmt.Sprintf("n%02d", i)), Region: r})
		}
		return list
	}
	small := peers("fra", "syd", "syd", "ams", "ams")
	if got, all := fanout("n00a", small, "fra", ReachAll, newRand()); !all || !slices.Equal(got, small) {
		t.Errorf("a small cluster: %v, %v, want all", got, all)
	}
	large := peers("fra", "fra", "fra", "fra", "fra", "fra", "syd", "syd", "ams", "ams")
	far, chosen := 0, map[perigee.NodeID]int{}
	const rounds = 4000
	rng := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		got, all := fanout("n00a", large, "fra", ReachAll, rng)
		if all || len(got) < fanoutNear || len(got) > fanoutNear+1 {
			t.Fatalf("chose %v, %v", got, all)
		}
		for i, p := range got {
			chosen[p.ID]++
			if near := p.Region == "fra"; near != (i < fanoutNear) || i == 0 && p.ID != "n01" {
				t.Fatalf("chose %v: the first is the next by name, four are near, the fifth is far", got)
			}
		}
		far += len(got) - fanoutNear
	}
	if share := float64(far) / rounds; share < 0.22 || share > 0.28 {
		t.Errorf("told another region %.2f of the time, want about a quarter", share)
	}
	if len(chosen) != len(large) {
		t.Errorf("only %d of %d were ever chosen", len(chosen), len(large))
	}
	sparse := peers("fra", "syd", "ams", "wdc", "gru", "nrt", "sin")
	if got, _ := fanout("n00a", sparse, "fra", ReachAll, rng); len(got) < fanoutNear || got[0].Region != "fra" {
		t.Errorf("with one peer near: %v, want it and others in the free places", got)
	}
}

// TestOutbox checks batching, bounds and answers of the queue to one peer.
func TestOutbox(t *testing.T) {
	w := newWorld(t)
	c := w.node("fra-1", "fra").core
	now := time.Now()
	var asks []*pushAsk
	var fail error
	// settle lets a second pass in which each message is answered after 100 ms.
	settle := func() {
		for end := now.Add(time.Second); now.Before(end); now = now.Add(5 * time.Millisecond) {
			for _, call := range c.Step(now, Tick{}).Calls {
				ask, ok := call.Message.(*pushAsk)
				if !ok {
					c.Step(now, Failed{call.Number, errors.New("not in this test")})
					continue
				}
				asks = append(asks, ask)
				var held []perigee.Digest
				for _, raw := range ask.Records {
					held = append(held, record.ID(raw))
				}
				now = now.Add(100 * time.Millisecond)
				if fail != nil {
					c.Step(now, Failed{call.Number, fail})
				} else {
					c.Step(now, Answered{call.Number, &pushTell{Held: packDigests(held)}})
				}
			}
		}
	}
	var answers []pushed
	answer := func(_ time.Time, a pushed) { answers = append(answers, a) }
	c.push(now, Peer{ID: "a"}, nil, nil, ReachOne, answer)
	if len(answers) != 1 || answers[0].err == nil {
		t.Error("a push before the start is answered without an error")
	}
	c.Step(now, Start{})

	var entries []*entry
	for i := range maxItems + 10 {
		raw := fmt.Append(nil, "record ", i)
		entries = append(entries, &entry{id: record.ID(raw), raw: raw})
	}
	answers = nil
	c.push(now, Peer{ID: "a"}, entries[:3], nil, ReachOne, nil)
	c.push(now, Peer{ID: "a"}, entries[2:5], map[perigee.NodeID][]byte{"x": {1}}, ReachAll, answer)
	settle()
	if len(answers) != 1 || answers[0].err != nil || !holdsAll(answers[0].held, entries[2:5]) {
		t.Errorf("answers %+v", answers)
	}
	if len(asks) != 1 || len(asks[0].Records) != 5 || len(asks[0].Rows) != 1 || asks[0].Reach != ReachAll {
		t.Errorf("sent %d messages, want one with all: %+v", len(asks), asks)
	}
	asks, answers = nil, nil
	c.push(now, Peer{ID: "a"}, entries, nil, ReachOne, answer)
	settle()
	if len(answers) != 1 || answers[0].err != nil || !holdsAll(answers[0].held, entries) {
		t.Errorf("%d answers, want all of two messages", len(answers))
	}
	if len(asks) != 2 || len(asks[0].Records) != maxItems {
		t.Errorf("sent %d messages", len(asks))
	}
	fail, answers = errors.New("no route"), nil
	c.push(now, Peer{ID: "b"}, entries, nil, ReachOne, answer)
	settle()
	if len(answers) != 1 || !errors.Is(answers[0].err, fail) {
		t.Errorf("answers %+v, want the error", answers)
	}
	if len(c.boxes) != 0 {
		t.Errorf("%d outboxes are left", len(c.boxes))
	}
	fail, asks = nil, nil
	var flood []*entry
	for i := range 2 * maxOutbox {
		raw := fmt.Append(nil, "flood ", i)
		flood = append(flood, &entry{id: record.ID(raw), raw: raw})
	}
	c.push(now, Peer{ID: "c"}, flood, nil, ReachOne, nil)
	settle()
	total := 0
	for _, a := range asks {
		total += len(a.Records)
	}
	if total != maxOutbox {
		t.Errorf("a flood of %d sent %d records, want %d", len(flood), total, maxOutbox)
	}
}

// TestTransport checks what memberlist relies on.
func TestTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net1 := newNetwork()
		a, b := net1.attach("a-1", perigee.NodeClaims{ID: "a-1"}), net1.attach("b-1", perigee.NodeClaims{ID: "b-1"})
		logger := slog.New(slog.DiscardHandler)
		ta := newTransport(t.Context(), a, a.addr, logger)
		tb := newTransport(t.Context(), b, b.addr, logger)
		if ip, portNo, err := ta.FinalAdvertiseAddr("", 0); err != nil || ip.String() != a.addr.Addr().String() || portNo != 7443 {
			t.Errorf("advertises %s:%d, %v", ip, portNo, err)
		}
		if _, err := ta.WriteTo([]byte("ping"), b.addr.String()); err != nil {
			t.Fatal(err)
		}
		if p := <-tb.PacketCh(); string(p.Buf) != "ping" || p.From.String() != a.addr.String() || p.Timestamp.IsZero() {
			t.Errorf("packet %+v", p)
		}
		var opErr *net.OpError
		if _, err := ta.WriteTo(nil, "nonsense"); !errors.As(err, &opErr) || opErr.Op != "write" || opErr.Net != "udp" {
			t.Errorf("write to nowhere: %v, want a *net.OpError", err)
		}
		if _, err := ta.DialTimeout("10.1.2.3:1", time.Second); !errors.As(err, &opErr) || opErr.Op != "dial" {
			t.Errorf("dial nowhere: %v, want a *net.OpError", err)
		}

		// Nobody reads the packets of b: they are dropped, and the reader goes on.
		for range 3 * packetQueue {
			b.packets <- simPacket{[]byte("x"), a.addr}
		}
		synctest.Wait()
		if got := len(tb.packets); got != packetQueue {
			t.Errorf("%d packets wait, want %d", got, packetQueue)
		}

		conn, err := ta.DialTimeout(b.addr.String(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		theirs := <-tb.StreamCh()
		go func() { _, _ = conn.Write([]byte("hello")) }()
		buf := make([]byte, 5)
		if _, err := theirs.Read(buf); err != nil || string(buf) != "hello" {
			t.Errorf("read %q, %v", buf, err)
		}
		// Shutdown ends a stream that somebody waits on.
		done := make(chan error, 1)
		go func() {
			_, err := theirs.Read(buf)
			done <- err
		}()
		if err := tb.Shutdown(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("a stream outlives its transport")
		}
		conn.Close()
		if err := ta.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}

// brokenMesh fails at once, as a closed socket does.
type brokenMesh struct {
	*port
	reads atomic.Int64
}

func (m *brokenMesh) ReadPacket(context.Context, []byte) (int, netip.AddrPort, error) {
	m.reads.Add(1)
	return 0, netip.AddrPort{}, net.ErrClosed
}

func (m *brokenMesh) AcceptStream(context.Context) (net.Conn, error) {
	m.reads.Add(1)
	return nil, net.ErrClosed
}

func TestBrokenSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &brokenMesh{port: newNetwork().attach("a-1", perigee.NodeClaims{ID: "a-1"})}
		tr := newTransport(t.Context(), m, m.addr, slog.New(slog.DiscardHandler))
		wait(t.Context(), time.Second)
		if got := m.reads.Load(); got < 2 || got > 60 {
			t.Errorf("%d reads of a broken socket in a second", got)
		}
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}

func TestMemberDelegate(t *testing.T) {
	count := 0
	var logged strings.Builder
	d := &memberDelegate{
		self: "old-self",
		peer: func(id perigee.NodeID) (*perigee.Peer, bool) {
			return map[perigee.NodeID]*perigee.Peer{"old-1": {Expires: time.Now().Add(-time.Hour)}, "old-self": {Expires: time.Now().Add(-time.Hour)}, "fra-1": {Expires: time.Now().Add(time.Hour)}}[id], id == "gone-1"
		},
		count: func() int { return count }, logger: slog.New(slog.NewTextHandler(&logged, nil)),
	}
	for range 100 {
		d.NotifyConflict(&memberlist.Node{Name: "fra-1"}, &memberlist.Node{Name: "fra-1", Port: 1})
	}
	if n := strings.Count(logged.String(), "two members have one name"); n != 1 {
		t.Errorf("a hundred conflicts are logged %d times", n)
	}
	for name, ok := range map[string]bool{"fra-1": true, "new-1": true, "": false, "Bad Name": false, "gone-1": false, "old-1": false, "old-self": true} {
		if err := d.NotifyAlive(&memberlist.Node{Name: name}); (err == nil) != ok {
			t.Errorf("NotifyAlive of %q: %v", name, err)
		}
	}
	if err := d.NotifyAlive(&memberlist.Node{Name: "fra-1", Meta: make([]byte, metaSize+1)}); err == nil {
		t.Error("NotifyAlive takes much meta data")
	}
	count = maxNodes
	if err := d.NotifyAlive(&memberlist.Node{Name: "fra-1"}); err == nil {
		t.Error("NotifyAlive takes any number of members")
	}
	table := memberTable{byID: map[perigee.NodeID]*member{}, changed: func(bool) {}}
	for i := range maxNodes + 10 {
		table.heard(perigee.NodeID(fmt.Sprintf("n%d", i)), time.Now())
	}
	if len(table.byID) != maxNodes {
		t.Errorf("%d members remembered, want %d", len(table.byID), maxNodes)
	}
}

// TestLateSilence: a call that fails says nothing of a node that was heard since the call began.
func TestLateSilence(t *testing.T) {
	changes := 0
	table := memberTable{byID: map[perigee.NodeID]*member{}, changed: func(bool) { changes++ }}
	began := time.Now()
	table.heard("a", began.Add(time.Second))
	before := changes
	table.silent("a", began)
	if table.get("a").failed || changes != before {
		t.Error("a call that began before the node was heard makes it silent")
	}
	table.silent("a", began.Add(2*time.Second))
	if !table.get("a").failed || changes != before+1 {
		t.Error("a call that began after the node was heard does not make it silent")
	}
}

func TestMemberLog(t *testing.T) {
	var out strings.Builder
	l := &memberLog{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	fmt.Fprintln(l, "[DEBUG] memberlist: a detail")
	fmt.Fprintln(l, "[ERR] memberlist: a failed ping")
	fmt.Fprintln(l, "[WARN] memberlist: Refuting a suspect message (from: x)")
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `msg=membership text="Refuting a suspect message (from: x)"`) {
		t.Errorf("logged %s", got)
	}
}

func TestPeersFile(t *testing.T) {
	sim := simdisk.New()
	if got, err := loadPeers(sim, "/s"); err != nil || got != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
	want := map[perigee.NodeID]netip.AddrPort{"a-1": addrOf("a-1"), "b-1": netip.MustParseAddrPort("[2001:db8::1]:7443")}
	if err := sim.MkdirAll("/s"); err != nil {
		t.Fatal(err)
	}
	if err := savePeers(sim, "/s", want); err != nil {
		t.Fatal(err)
	}
	if got, err := loadPeers(sim, "/s"); err != nil || !maps.Equal(got, want) {
		t.Errorf("loaded %v, %v, want %v", got, err, want)
	}
	many := map[perigee.NodeID]netip.AddrPort{}
	for i := range 2 * maxPeers {
		many[perigee.NodeID(fmt.Sprintf("node-with-a-name-of-average-length-%d", i))] = netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
	}
	if err := savePeers(sim, "/s", many); err != nil {
		t.Fatal(err)
	}
	if got, err := loadPeers(sim, "/s"); err != nil || len(got) != maxPeers {
		t.Errorf("of many peers %d are loaded, %v", len(got), err)
	}
	for _, bad := range []string{"", "{", `{"version":2}`, `{"version":1,"peers":{"a":"nowhere"}}`, strings.Repeat(" ", maxFile+1)} {
		sim.Put("/s/"+peersName, []byte(bad))
		if got, err := loadPeers(sim, "/s"); err == nil {
			t.Errorf("a file of %.20q loads as %v", bad, got)
		}
	}
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	n.conf.FS.(*simdisk.Disk).Put("/state/"+peersName, []byte("garbage"))
	n.conf.Logger = slog.New(slog.DiscardHandler)
	if _, err := New(n.conf); err != nil {
		t.Errorf("New with a bad file of peers: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	w := newWorld(t)
	n := w.node("fra-1", "fra", func(c *Config) { c.Metrics = m })
	rev, ptr := w.deploy("operator", manifest("hello"))
	n.submit(t, rev, ptr)
	if _, err := n.Submit(t.Context(), []byte("garbage")); err == nil {
		t.Fatal("garbage is accepted")
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "perigee_gossip_") {
			t.Errorf("metric %s", f.GetName())
		}
		for _, s := range f.GetMetric() {
			got[f.GetName()] += s.GetCounter().GetValue() + s.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"perigee_gossip_records_stored_total": 2, "perigee_gossip_records_refused_total": 1, "perigee_gossip_records_held": 3,
		"perigee_gossip_state_bytes": float64(len(w.genesis) + len(rev) + len(ptr)),
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
