package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// echo is a guest that answers with the request: method, space, path and query, newline, body.
func echo() []byte {
	var m Module
	method := m.Import("http_handler", "get_method", "ii:i")
	uri := m.Import("http_handler", "get_uri", "ii:i")
	read := m.Import("http_handler", "read_body", "iii:I")
	write := m.Import("http_handler", "write_body", "iii:")
	m.Memory(1, 0)
	m.Data(16, " \n")
	const text, room = 1024, 8192
	set, got := []byte{0x21, 0}, []byte{0x20, 0}
	store64, load32 := []byte{0x37, 3, 0}, []byte{0x28, 2, 0}
	say := func(at, size []byte) []byte { return Cat(Const(1), at, size, Call(write)) }
	m.Export("handle_request", 0, m.Func(":I", 1,
		Const(text), Const(room), Call(method), set, say(Const(text), got), say(Const(16), Const(1)),
		Const(text), Const(room), Call(uri), set, say(Const(text), got), say(Const(17), Const(1)),
		// 0 is where the result goes: length, then whether it was the end
		Loop(Const(0), Const(0), Const(text), Const(room), Call(read), store64,
			say(Const(text), Cat(Const(0), load32)),
			Const(4), load32, []byte{0x45, 0x0d, 0}),
		Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// ask sends one request to a handler.
func ask(h http.Handler, method, target string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, body))
	return w
}

// TestAdminInvoke: what goes through the API reaches the function as it would from a client.
func TestAdminInvoke(t *testing.T) {
	s := newSingle(t)
	s.run()
	p := s.pack("echo", echo(), perigee.Policy{})
	p.m.Routes = []perigee.Route{{Host: "echo.example.com", Path: "/api"}}
	s.deploy(p)
	c := s.Client()
	for _, path := range []string{
		"/", "/a/b", "/a%2Fb", "/a//b", "/a/../b", "/a/./b/", "/%C3%A9", "/a?x=1&y=%20z", "/?", "/a%20b", "/a+b",
		"/v1/status", "/..%2f..%2fv1/status", "/a;b=c",
	} {
		r := httptest.NewRequest("PATCH", path, strings.NewReader("some body"))
		resp, err := c.Invoke(t.Context(), "echo", r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := "PATCH /api" + strings.TrimSuffix(path, "?") + "\nsome body"
		if err != nil || resp.StatusCode != 200 || strings.Replace(string(b), "?\n", "\n", 1) != want {
			t.Errorf("%s: %d %q, %v, want %q", path, resp.StatusCode, b, err, want)
		}
		if receipt, ok := edgeproxy.ReceiptOf(resp.Header); !ok || receipt.Region != "fra" || receipt.Reason == "" {
			t.Errorf("%s: receipt %+v", path, receipt)
		}
	}
	h := s.adminHandler()
	for target, want := range map[string]int{
		"/v1/invoke/": 400, "/v1/invoke/echo": 400, "/v1/invoke//": 404, "/v1/invoke/none/": 404, "/v1/invoke/%2e%2e/": 404, "/v1/invoke/echo/%zz": 400,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path, r.URL.RawPath = target, ""
		if strings.Contains(target, "%zz") {
			r.URL.Path, r.URL.RawPath = "/v1/invoke/echo/x", "/v1/invoke/echo/x%zz"
			want = 200 // not valid, so the path itself counts
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
	}
	resp, err := c.Invoke(t.Context(), "../status", httptest.NewRequest("GET", "/", nil))
	if err != nil || resp.StatusCode != 404 {
		t.Errorf("a name that is a path: %+v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
}

// TestAdminAPI covers what the API answers to reads and to requests that can't work.
func TestAdminAPI(t *testing.T) {
	s := newSingle(t)
	rev := s.deploy(s.pack("a", guest("1"), perigee.Policy{Pin: []string{"fra"}}))
	h := s.adminHandler()
	read := func(path string, into any) {
		t.Helper()
		w := ask(h, "GET", path, nil)
		if w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	var st Status
	if read("/v1/status", &st); st.Node != "fra-1" || st.Nodes != 1 || st.Alive != 1 || st.Agree != 1 || st.Signers != 1 || st.Functions != 1 ||
		st.Ready || st.Why == "" || len(st.Addrs) != 1 || st.Genesis != s.m.genesisDigest || st.Domain != "localhost" {
		t.Errorf("%+v", st)
	}
	var nodes []NodeStatus
	if read("/v1/nodes", &nodes); len(nodes) != 1 || !nodes[0].Self || nodes[0].Revisions[rev.ID] != perigee.Warm {
		t.Errorf("%+v", nodes)
	}
	var fns []FunctionStatus
	if read("/v1/functions", &fns); len(fns) != 1 || fns[0].URLs[0] != "https://a.localhost/" || !fns[0].Ready() || len(fns[0].Heads) != 1 {
		t.Errorf("%+v", fns)
	}
	var fn FunctionStatus
	if read("/v1/functions/a", &fn); fn.Live.ID != rev.ID || !sameJSON(fn.Holders, []Holder{{"fra-1", "fra", []string{"eu", "eu27"}, perigee.NodeAlive, true, perigee.Warm, perigee.Warm, perigee.Trying}}) {
		t.Errorf("%+v", fn)
	}
	var regions []perigee.RegionInfo
	if read("/v1/regions", &regions); len(regions) < 10 {
		t.Errorf("%d regions", len(regions))
	}
	var tokens []TokenStatus
	if read("/v1/tokens", &tokens); tokens == nil || len(tokens) != 0 {
		t.Errorf("%+v", tokens)
	}

	s.remove("a")
	w := ask(h, "GET", "/v1/functions/a", nil)
	var free apiError
	if err := json.Unmarshal(w.Body.Bytes(), &free); err != nil || w.Code != 404 || len(free.Heads) != 1 {
		t.Errorf("a removed function: %d %s", w.Code, w.Body)
	}

	manifest, err := json.Marshal(s.pack("b", guest("1"), perigee.Policy{Pin: []string{"fra"}}).m)
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(h, "POST", "/v1/plan", bytes.NewReader(manifest)); w.Code != 200 || !strings.Contains(w.Body.String(), "fra-1") {
		t.Errorf("plan: %d %s", w.Code, w.Body)
	}
	frame := func(b []byte) []byte {
		var out bytes.Buffer
		if err := writeFrame(&out, b); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	_, stranger, err := record.Sign(mustKey(t), s.m.genesis.Cluster, 1, s.gossip.Now(), nil, &record.Revoke{Node: "fra-1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		body         []byte
		status       int
		words        string
	}{
		{"POST", "/v1/plan", []byte("{"), 409, "read the manifest"},
		{"POST", "/v1/plan", bytes.Repeat([]byte(" "), maxManifest+1), 413, "too large"},
		{"POST", "/v1/plan", []byte(`{"name":"b"}`), 409, "wasm"},
		{"POST", "/v1/records", nil, 409, "no record"},
		{"POST", "/v1/records", []byte{0, 0}, 409, "unexpected EOF"},
		{"POST", "/v1/records", []byte{0xff, 0xff, 0xff, 0xff}, 409, "the limit is"},
		{"POST", "/v1/records", frame([]byte("x")), 400, "decode record"},
		{"POST", "/v1/records", bytes.Repeat(frame(nil), maxRecords+1), 409, "more than 64"},
		{"POST", "/v1/records", frame(stranger), 403, "not known"},
		{"POST", "/v1/deploy", []byte{0, 0, 0, 9}, 400, "read the revision"},
		{"POST", "/v1/deploy", frame(stranger), 400, "read the pointer"},
		{"GET", "/v1/none", nil, 404, ""},
		{"DELETE", "/v1/status", nil, 405, ""},
	} {
		w := ask(h, c.method, c.path, bytes.NewReader(c.body))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.words) {
			t.Errorf("%s %s %.20q: %d %s, want %d and %q", c.method, c.path, c.body, w.Code, w.Body, c.status, c.words)
		}
	}
}

func mustKey(t *testing.T) []byte {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestAdminKeys: over the mesh port, the API is for keys that the cluster knows, and each for its own.
func TestAdminKeys(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	ctx := t.Context()
	addrs := []string{s.cfg.Socket.LocalAddr().String()}
	dial := func(key []byte) *Person {
		t.Helper()
		p, done, err := Dial(ctx, addrs, key, s.m.genesisRecord)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(done)
		return p
	}
	op := dial(s.operator)
	if st, err := op.Status(ctx); err != nil || st.Node != "fra-1" {
		t.Fatalf("operator: %+v, %v", st, err)
	}
	_, err := dial(mustKey(t)).Status(ctx)
	wantErr(t, "an unknown key", err, "does not know key", "perigee login")

	token, err := op.CreateToken(ctx, TokenSpec{Kind: record.TokenDeploy, Scope: record.Scope{Functions: []string{"a"}}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := Login(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	deployer := dial(in.Key)
	if _, err := deployer.Nodes(ctx); err != nil {
		t.Errorf("a deploy key reads: %v", err)
	}
	wantErr(t, "a deploy key drains", deployer.Drain(ctx), "operator key")
	_, err = deployer.CreateToken(ctx, TokenSpec{Kind: record.TokenOperator})
	wantErr(t, "a deploy key makes an operator", err, "may not write")
	p := s.pack("a", guest("1"), perigee.Policy{})
	if _, err := deployer.Deploy(ctx, p.m, p.archive.Digest, perigee.Bytes(p.archive.Size), p.archive.Open(), nil); err != nil {
		t.Errorf("a deploy key deploys: %v", err)
	}
	resp, err := deployer.Invoke(ctx, "a", httptest.NewRequest("GET", "/", nil))
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("invoke over the mesh: %+v, %v", resp, err)
	}
	resp.Body.Close()
	ack, err := op.Revoke(ctx, record.Revoke{Key: in.ID})
	if err != nil || len(ack.Stored) != 1 {
		t.Fatal(ack, err)
	}
	_, err = deployer.Status(ctx)
	wantErr(t, "a revoked key", err, "was revoked")
	tokens, err := op.Tokens(ctx)
	if err != nil || len(tokens) != 1 || tokens[0].Redeemed != string(in.ID) {
		t.Errorf("%+v, %v", tokens, err)
	}
	if err := op.Drain(ctx); err != nil {
		t.Error(err)
	}
	if st, err := op.Status(ctx); err != nil || st.Ready || st.Why != "draining" {
		t.Errorf("after the drain: %+v, %v", st, err)
	}
	_, _, err = Dial(ctx, addrs, s.operator, []byte("junk"))
	wantErr(t, "without a genesis", err, "decode record")
	_, _, err = Dial(ctx, []string{"no-port"}, s.operator, s.m.genesisRecord)
	wantErr(t, "no node", err, "no node of cluster", "no-port")
	for _, ttl := range []time.Duration{-time.Second, time.Millisecond, maxTTL + 1} {
		_, err := op.CreateToken(ctx, TokenSpec{Kind: record.TokenNode, Region: "wdc", TTL: ttl})
		wantErr(t, "life", err, "create token: life of")
	}
	if ack, err := op.AddRegion(ctx, perigee.RegionInfo{Code: "moon", City: "Luna", Country: "XX"}); err != nil || len(ack.Stored) == 0 {
		t.Errorf("%+v, %v", ack, err)
	}
	if _, ok := s.View().Desired.Regions.Lookup("moon"); !ok {
		t.Error("the region is not there")
	}
	if _, err := op.Remove(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove what is not there: %v", err)
	}
}

// TestSocket: who may open the admin socket, and what is in its way.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	_, err = listenSocket(path)
	wantErr(t, "a socket that answers", err, "another program answers")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = listenSocket(path); err != nil {
		t.Errorf("a socket of a dead process: %v", err)
	} else {
		l.Close()
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = listenSocket(path)
	wantErr(t, "a file", err, "no socket", "admin_socket")
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	_, err = listenSocket(filepath.Join(dir, "none", "s"))
	wantErr(t, "no directory", err, "admin socket")
	_, err = NewSocketClient(filepath.Join(dir, "nobody")).Status(t.Context())
	wantErr(t, "nobody listens", err, "nobody")

	if got := SocketPath("short"); got != "short" {
		t.Errorf("short path: %s", got)
	}
	long := filepath.Join(dir, strings.Repeat("long", 30), "admin.sock")
	got := SocketPath(long)
	if len(got) > socketPathLimit || got != SocketPath(long) || got == SocketPath(long+"x") || filepath.Dir(got) != filepath.Clean(os.TempDir()) {
		t.Errorf("long path: %s", got)
	}
	s := &single{t: t, dir: Dir(filepath.Join(dir, strings.Repeat("long", 30)))}
	if _, err := Found(FoundConfig{Dir: s.dir, Region: "fra"}); err != nil {
		t.Fatal(err)
	}
	s.open()
	s.run()
}

// TestPortsTaken: the error names the setting and what to do.
func TestPortsTaken(t *testing.T) {
	s := newSingle(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	taken := tcp.Addr().String()
	for key, set := range map[string]func(*Config){
		"listen":     func(c *Config) { c.Listen = s.cfg.Socket.LocalAddr().String() },
		"https":      func(c *Config) { c.HTTPS = taken },
		"http":       func(c *Config) { c.HTTP = taken },
		"admin_http": func(c *Config) { c.Admin = taken },
	} {
		dir := Dir(filepath.Join(t.TempDir(), "data"))
		if _, err := Found(FoundConfig{Dir: dir, Region: "fra"}); err != nil {
			t.Fatal(err)
		}
		cfg := singleConfig(t, dir)
		set(&cfg)
		_, err := New(cfg)
		wantErr(t, key, err, key+" in node.toml", "another program has this port", "ss -lntup")
		if n, err := New(singleConfig(t, dir)); err != nil {
			t.Errorf("%s: after it was mended: %v", key, err)
		} else {
			n.Close()
		}
	}
	for what, cfg := range map[string]Config{"Dir": {}, "DrainTimeout": {Dir: "x", DrainTimeout: -1}} {
		_, err := New(cfg)
		wantErr(t, what, err, what)
	}
	cfg := singleConfig(t, s.dir)
	cfg.Receipt = "some"
	s.Close()
	_, err = New(cfg)
	wantErr(t, "receipt", err, "receipt")
}

// TestHealth: the admin listener says when the node should get traffic, and why not.
func TestHealth(t *testing.T) {
	s := newSingle(t)
	s.Close()
	cfg := singleConfig(t, s.dir)
	cfg.Admin = "127.0.0.1:0"
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Node = n
	get := func(path string) (int, string) {
		w := ask(s.healthHandler(), "GET", path, nil)
		return w.Code, w.Body.String()
	}
	if code, text := get("/readyz"); code != 503 || !strings.Contains(text, "starting") {
		t.Errorf("before it runs: %d %s", code, text)
	}
	late := s.declare(s.pack("late", guest("2"), perigee.Policy{}))
	s.run()
	if code, text := get("/readyz"); code != 503 || !strings.Contains(text, "function late is not warm here yet") {
		t.Errorf("planned here, and not here: %d %s", code, text)
	}
	s.rep.note(late.ID, errors.New("can't"))
	if code, text := get("/readyz"); code != 200 {
		t.Errorf("what can't be loaded keeps the node from serving the rest: %d %s", code, text)
	}
	s.declare(s.pack("later", guest("3"), perigee.Policy{}))
	if code, text := get("/readyz"); code != 200 {
		t.Errorf("a deploy makes it unready: %d %s", code, text)
	}
	resp, err := http.Get("http://" + s.health.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(b), "perigee_node_certificate_left_seconds") {
		t.Errorf("%.200s, %v", b, err)
	}
	s.setDraining()
	if code, text := get("/readyz"); code != 503 || !strings.Contains(text, "draining") {
		t.Errorf("draining: %d %s", code, text)
	}
	if code, _ := get("/livez"); code != 200 {
		t.Errorf("alive: %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestStarting: what a node waits for before it takes traffic the first time.
func TestStarting(t *testing.T) {
	s := newSingle(t)
	s.readiness.start(time.Now())
	s.seeds = seedFile{Advertise: "192.0.2.1:7443"}
	wantErr(t, "a new member", s.ready(), "has not arrived")
	s.seeds = seedFile{}
	if err := s.ready(); err != nil {
		t.Errorf("the first node of a cluster: %v", err)
	}
	one, two := perigee.Digest{1}, perigee.Digest{2}
	for i, c := range []struct {
		others []perigee.Peer
		want   bool
	}{
		{nil, true},
		{[]perigee.Peer{{State: perigee.NodeAlive, Row: perigee.Row{Digest: one}}}, true},
		{[]perigee.Peer{{State: perigee.NodeAlive, Row: perigee.Row{Digest: two}}}, false},
		{[]perigee.Peer{{State: perigee.NodeDead, Row: perigee.Row{Digest: one}}}, false},
		{[]perigee.Peer{{State: perigee.NodeAlive, Row: perigee.Row{Digest: two}}, {State: perigee.NodeAlive, Row: perigee.Row{Digest: one}}}, true},
	} {
		v := &perigee.View{Desired: &perigee.Desired{Digest: one}, Observed: &perigee.Observed{Self: "me", Nodes: map[perigee.NodeID]*perigee.Peer{"me": {}}}}
		for j := range c.others {
			v.Observed.Nodes[perigee.NodeID(fmt.Sprint(j))] = &c.others[j]
		}
		if got := agrees(v); got != c.want {
			t.Errorf("case %d: %v", i, got)
		}
	}
}

// TestServeEnds: handlers end with the server, and it waits for them.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	for _, stubborn := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		in, out := make(chan struct{}), make(chan struct{})
		served := make(chan error, 1)
		go func() {
			served <- serve(ctx, l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				defer close(out)
				close(in)
				if stubborn {
					_, _ = io.ReadAll(r.Body) // a client that sends no more
					return
				}
				<-r.Context().Done()
			}))
		}()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
		<-in
		began := time.Now()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("stubborn %v: %v", stubborn, err)
		}
		select {
		case <-out:
		default:
			t.Errorf("stubborn %v: a handler runs on", stubborn)
		}
		if took := time.Since(began); took > stopTime+2*time.Second {
			t.Errorf("stubborn %v: it took %v", stubborn, took)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := serve(t.Context(), l, http.NotFoundHandler()); err == nil {
		t.Error("a listener that failed is no error")
	}
}

// TestFaults: each fault of the runtime has its word in the request path.
func TestFaults(t *testing.T) {
	l := local{newSingle(t).Node}
	for _, c := range []struct {
		err  *runtime.GuestError
		want edgeproxy.Fault
	}{
		{&runtime.GuestError{Kind: runtime.GuestTrap}, edgeproxy.FaultTrap},
		{&runtime.GuestError{Kind: runtime.GuestDeadline}, edgeproxy.FaultDeadline},
		{&runtime.GuestError{Kind: runtime.GuestNoResponse}, edgeproxy.FaultNoResponse},
		{&runtime.GuestError{Kind: runtime.GuestResponseTooLarge}, edgeproxy.FaultTooLarge},
		{&runtime.GuestError{Kind: runtime.GuestMemory}, edgeproxy.FaultMemory},
		{&runtime.GuestError{Kind: runtime.GuestBadResponse, Detail: "d"}, edgeproxy.FaultBad},
	} {
		var out *edgeproxy.GuestError
		if err := l.refused("x", c.err); !errors.As(err, &out) || out.Kind != c.want || out.Detail != c.err.Detail {
			t.Errorf("%v: %v, want %v", c.err, err, c.want)
		}
	}
	if err := l.refused("x", nil); err != nil {
		t.Errorf("no error: %v", err)
	}
	var hop *perigee.HopError
	if err := l.refused("x", fmt.Errorf("here: %w", &runtime.Overload{Limit: runtime.LimitNodeMemory})); !errors.As(err, &hop) || hop.Code != perigee.RefusedOverloaded || hop.Load == nil || hop.Limit != edgeproxy.LimitNodeMemory {
		t.Errorf("overloaded: %v", err)
	}
	if err := l.refused("x", runtime.ErrNotLoaded); !isNotHere(err) {
		t.Errorf("not loaded: %v", err)
	}
	if err := l.refused("x", io.EOF); err != io.EOF {
		t.Errorf("another error: %v", err)
	}
}
