package node

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// pair starts two nodes that know each other, both signers. stop stops the second.
func pair(t *testing.T) (first *single, second *Node, stop func() error) {
	t.Helper()
	s := newSingle(t)
	s.run()
	spec := node("wdc")
	spec.Roles = []perigee.Role{perigee.RoleSigner}
	cfg := joiner(t, s.token(spec))
	if _, err := Join(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	conf := singleConfig(t, cfg.Dir)
	conf.Socket = cfg.Socket
	wdc, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	stop = runNode(t, wdc)
	wait(t, 10*time.Second, "both are up", func() bool { return wdc.ready() == nil && len(s.View().Observed.Nodes) == 2 })
	return s, wdc, stop
}

// TestBundlePeers: what another node may ask of this one's bundles, and bring.
func TestBundlePeers(t *testing.T) {
	t.Parallel()
	s, wdc, _ := pair(t)
	own := s.pack("own", guest("1"), perigee.Policy{Pin: []string{"fra"}})
	ownRev := s.deploy(own)
	both := s.pack("both", guest("2"), perigee.Policy{})
	bothRev := s.deploy(both)

	ask := func(method, path string, body io.Reader) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "http://perigee"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := wdc.link.Control("fra-1").RoundTrip(r)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	frame := func(records ...[]byte) string {
		var out bytes.Buffer
		if err := writeFrames(&out, records...); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	_, elsewhere, toElsewhere := s.sign(s.pack("elsewhere", guest("3"), perigee.Policy{Pin: []string{"wdc"}}))
	good := s.pack("good", guest("4"), perigee.Policy{})
	goodRev, goodRecord, pointer := s.sign(good)
	_, forged, err := record.Sign(mustKey(t), s.m.genesis.Cluster, 1, s.gossip.Now(), nil, &record.Revision{Manifest: *good.m, Bundle: good.archive.Digest, Size: perigee.Bytes(good.archive.Size)})
	if err != nil {
		t.Fatal(err)
	}
	huge := *good.m
	_, hugeRecord, err := record.Sign(s.operator, s.m.genesis.Cluster, 1, s.gossip.Now(), nil, &record.Revision{Manifest: huge, Bundle: good.archive.Digest, Size: maxArchive + 1})
	if err != nil {
		t.Fatal(err)
	}
	_, toHuge, err := record.Sign(s.operator, s.m.genesis.Cluster, 1, s.gossip.Now(), nil, &record.Pointer{Function: huge.Name, Revision: record.ID(hugeRecord)})
	if err != nil {
		t.Fatal(err)
	}
	content := string(whole(t, good))

	for _, c := range []struct {
		what, method, path, body string
		status                   int
		words                    string
	}{
		{"a slice that it may have", "GET", "/bundles/both/" + string(bothRev.ID) + "/slices/0", "", 200, string(whole(t, both))},
		{"one that it may not", "GET", "/bundles/own/" + string(ownRev.ID) + "/slices/0", "", 403, "wdc-1 in wdc may not hold it"},
		{"what there is of that", "GET", "/bundles/own/" + string(ownRev.ID) + "/slices", "", 403, "wdc-1 in wdc may not hold it"},
		{"under another name", "GET", "/bundles/both/" + string(ownRev.ID) + "/slices/0", "", 404, "no such revision"},
		{"one that is not there", "GET", "/bundles/both/none/slices/0", "", 404, "no such revision"},
		{"a slice beyond the end", "GET", "/bundles/both/" + string(bothRev.ID) + "/slices/99", "", 404, "not in the bundle store"},
		{"a slice before the beginning", "GET", "/bundles/both/" + string(bothRev.ID) + "/slices/-1", "", 404, "not in the bundle store"},
		{"a slice without a number", "GET", "/bundles/both/" + string(bothRev.ID) + "/slices/x", "", 400, "number"},
		{"what comes of what is here", "GET", "/bundles/both/" + string(bothRev.ID) + "/slices", "", 404, "not coming"},
		{"nothing", "POST", "/bundles", "", 400, "EOF"},
		{"a frame that is too large", "POST", "/bundles", "\xff\xff\xff\xff", 400, "the limit is"},
		{"half a frame", "POST", "/bundles", "\x00\x00\x00\x09abc", 400, "unexpected EOF"},
		{"no record", "POST", "/bundles", frame([]byte("x"), pointer), 409, "decode record"},
		{"another kind of record", "POST", "/bundles", frame(pointer, pointer), 409, ""},
		{"nobody's revision", "POST", "/bundles/offer", frame(forged, pointer), 409, "not known"},
		{"a size out of bounds", "POST", "/bundles/offer", frame(hugeRecord, toHuge), 409, "want 1 to"},
		{"one that this node may not hold", "POST", "/bundles/offer", frame(elsewhere, toElsewhere), 409, "fra-1 in fra may not hold elsewhere"},
		{"and brought all the same", "POST", "/bundles", frame(elsewhere, toElsewhere) + content, 409, "may not hold"},
		{"fetch from itself", "POST", "/bundles/fetch/fra-1", frame(goodRecord, pointer), 400, "another node"},
		{"fetch from a name that is none", "POST", "/bundles/fetch/A_B", frame(goodRecord, pointer), 400, "another node"},
		{"fetch from nobody", "POST", "/bundles/fetch/nobody", frame(goodRecord, pointer), 409, "nobody"},
		{"a bundle that is not the one named", "POST", "/bundles", frame(goodRecord, pointer) + strings.Replace(content, "handler", "Handler", 1), 409, "instead"},
		{"a new one", "POST", "/bundles/offer", frame(goodRecord, pointer), 200, offerSend},
		{"and its bytes", "POST", "/bundles", frame(goodRecord, pointer) + content, 204, ""},
		{"again", "POST", "/bundles/offer", frame(goodRecord, pointer), 200, offerHave},
		{"and no bytes", "POST", "/bundles", frame(goodRecord, pointer), 204, ""},
		{"what is not recorded yet", "GET", "/bundles/good/" + string(goodRev.ID) + "/slices/0", "", 200, content},
		{"no such path", "DELETE", "/bundles", "", 405, ""},
	} {
		if status, body := ask(c.method, c.path, strings.NewReader(c.body)); status != c.status || !strings.Contains(body, c.words) {
			t.Errorf("%s: %d %.200q, want %d and %.80q", c.what, status, body, c.status, c.words)
		}
	}
	wait(t, 5*time.Second, "what was taken for a deploy is warm in its row", func() bool {
		return s.rep.warmth(goodRev.ID) == perigee.Warm && s.View().Observed.Nodes["fra-1"].Revisions[goodRev.ID] == perigee.Warm
	})
	s.setDraining()
	wait(t, 5*time.Second, "it sees that it drains", func() bool { return s.View().Observed.Nodes["fra-1"].Draining })
	if status, body := ask("POST", "/bundles/offer", strings.NewReader(frame(goodRecord, pointer))); status != 409 || !strings.Contains(body, "stopping") {
		t.Errorf("while it drains: %d %s", status, body)
	}
	if err := s.Node.Run(t.Context()); err == nil {
		t.Error("a node ran twice")
	}
}

// FuzzFrames: whatever comes, frames are read or refused, within their bounds.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x'})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 2, 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		frames, err := readFrames(bytes.NewReader(in), 3)
		if err != nil {
			return
		}
		var out bytes.Buffer
		for _, b := range frames {
			if err := writeFrame(&out, b); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out.Bytes(), in) {
			t.Errorf("%x was read as %x", in, out.Bytes())
		}
	})
}

// FuzzAdvertise: what is taken for an address can be reached and is written the same again.
func FuzzAdvertise(f *testing.F) {
	for _, s := range []string{"1.2.3.4:5", ":5", "[::1]:5", "[::ffff:1.2.3.4]:5", "host:5", "0.0.0.0:5", "[fe80::1%a]:5"} {
		f.Add(s)
	}
	host := netip.MustParseAddr("192.0.2.1")
	f.Fuzz(func(t *testing.T, in string) {
		a, err := parseAdvertise(in, host)
		if err != nil {
			return
		}
		again, err := parseAdvertise(a.String(), host)
		if err != nil || again != a || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Zone() != "" {
			t.Errorf("%q is %v, then %v: %v", in, a, again, err)
		}
	})
}
