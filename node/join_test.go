package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

func node(region perigee.Region) TokenSpec { return TokenSpec{Kind: record.TokenNode, Region: region} }

// TestJoinRefused covers tokens, names and addresses that can't be used. A good token survives all of
// them and works at the end.
func TestJoinRefused(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	ctx := t.Context()
	addrs := []string{s.cfg.Socket.LocalAddr().String()}
	genesis := s.m.genesisDigest
	short := s.token(TokenSpec{Kind: record.TokenNode, Region: "wdc", TTL: time.Second})
	expires := time.Now().Add(1100 * time.Millisecond)
	good := s.token(node("wdc"))

	other := newSingle(t)
	made := func(kind record.TokenKind, genesis perigee.Digest) identity.Token {
		token, err := identity.NewToken(kind, genesis, "fra-1", addrs)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	revoked := s.token(node("wdc"))
	if _, err := s.person().Revoke(ctx, record.Revoke{Key: record.KeyIDOf(revoked.Key().Public().(ed25519.PublicKey))}); err != nil {
		t.Fatal(err)
	}
	deployToken := s.token(TokenSpec{Kind: record.TokenDeploy})
	disguised := deployToken
	disguised.Kind = record.TokenNode
	noAddr := good
	noAddr.Addrs = nil
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()

	t.Run("all", func(t *testing.T) {
		for what, c := range map[string]struct {
			token identity.Token
			set   func(*JoinConfig)
			words []string
		}{
			"a token for people":            {token: deployToken, words: []string{"for people", "perigee login"}},
			"one that says it is not":       {token: disguised, words: []string{"this is a deploy token"}},
			"of another cluster":            {token: made(record.TokenNode, other.m.genesisDigest), words: []string{"another cluster", "create a token there"}},
			"unknown here":                  {token: made(record.TokenNode, genesis), words: []string{"does not know this token"}},
			"revoked":                       {token: revoked, words: []string{"was revoked"}},
			"without an address":            {token: noAddr, words: []string{"no address"}},
			"the id of a member":            {token: good, set: func(c *JoinConfig) { c.ID = "fra-1" }, words: []string{`has or had a node "fra-1"`, "set another id"}},
			"an id that is no label":        {token: good, set: func(c *JoinConfig) { c.ID = "No Label" }, words: []string{"node id", "a-z"}},
			"an address that is none":       {token: good, set: func(c *JoinConfig) { c.Advertise = "example.com:7443" }, words: []string{"advertise", "IP:PORT"}},
			"an address that is everywhere": {token: good, set: func(c *JoinConfig) { c.Advertise = "0.0.0.0:7443" }, words: []string{"no other machine"}},
			"port 0":                        {token: good, set: func(c *JoinConfig) { c.Advertise = ":0" }, words: []string{"port 0"}},
			"a port that does not answer": {token: good, set: func(c *JoinConfig) { c.Advertise = closed.LocalAddr().String() },
				words: []string{closed.LocalAddr().String(), "does not answer from fra-1 (fra)", "--advertise", "the token is still good"}},
			"a directory of a member": {token: good, set: func(c *JoinConfig) { c.Dir = other.dir }, words: []string{"another node runs"}},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				cfg := joiner(t, c.token)
				if c.set != nil {
					c.set(&cfg)
				}
				_, err := Join(ctx, cfg)
				wantErr(t, what, err, append(c.words, "join: ")...)
				if strings.HasPrefix(what, "a directory") {
					return
				}
				if cfg.Dir.Member() {
					t.Error("the directory is that of a member")
				}
			})
		}
	})
	other.Close()
	cfg := joiner(t, good)
	cfg.Dir = other.dir
	_, err = Join(ctx, cfg)
	wantErr(t, "a directory of a member", err, "already belongs to a cluster", "use another data_dir")
	_, err = Login(ctx, good)
	wantErr(t, "login with a token for a node", err, "--join")
	disguised = good
	disguised.Kind = record.TokenDeploy
	_, err = Login(ctx, disguised)
	wantErr(t, "login with a token for a node that says it is not", err, "this is a node token")

	time.Sleep(time.Until(expires))
	_, err = Join(ctx, joiner(t, short))
	wantErr(t, "expired", err, "expired at", "create another")

	cfg = joiner(t, good)
	claims, err := Join(ctx, cfg)
	if err != nil || claims.ID != "wdc-1" || claims.Region != "wdc" {
		t.Fatalf("the good token: %+v, %v", claims, err)
	}
	_, err = Join(ctx, joiner(t, good))
	wantErr(t, "used", err, "used already", "create another")
	_, err = Join(ctx, cfg)
	wantErr(t, "again", err, "already belongs to a cluster")
	if _, _, err := cfg.Dir.load(); err != nil {
		t.Error(err)
	}
	if _, err := Login(ctx, deployToken); err != nil {
		t.Fatal(err)
	}
	_, err = Login(ctx, deployToken)
	wantErr(t, "login with a used token", err, "used already")
}

// TestJoinAgain loses the answer to a join and to a login: the same key gets it again, and nobody
// else does, whatever else is known.
func TestJoinAgain(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	ctx := t.Context()
	token := s.token(TokenSpec{Kind: record.TokenNode, Region: "wdc", Roles: []perigee.Role{perigee.RoleSigner}})
	cfg := joiner(t, token)
	key, unlock, err := cfg.Dir.reserve()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = cfg.Dir.reserve()
	wantErr(t, "two joins in one directory", err, "another node runs")
	open := func() *joinSession {
		session, err := openJoin(ctx, token, func(ctx context.Context, addr string, conf *tls.Config) (*peerlink.Client, error) {
			return peerlink.DialOn(ctx, cfg.Socket, nil, addr, conf)
		})
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	session := open()
	session.client.Close() // the connection breaks: another is opened
	if _, _, err := session.join(ctx, cfg, key); err != nil {
		t.Fatal(err)
	}
	unlock() // the machine dies before it has written anything but its key

	// A thief has the token, and has seen the public key.
	pub := key.Public().(ed25519.PublicKey)
	thief, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	req := joinRequest{
		Token: session.tokenID(), ID: "wdc-1", Public: pub,
		Redeem: ed25519.Sign(token.Key(), record.RedeemMessage(session.genesis.Cluster, pub, "wdc-1")),
	}
	var stolen joinReply
	err = session.postSigned(ctx, "/join", token.Key(), thief, req, &stolen)
	wantErr(t, "without the node's key", err, "does not hold the key")
	err = session.postSigned(ctx, "/join", token.Key(), nil, req, &stolen)
	wantErr(t, "with one proof only", err, "does not hold the key")
	err = session.postSigned(ctx, "/join", thief, key, req, &stolen)
	wantErr(t, "without the token", err, "does not fit the token")
	if len(stolen.Chain)+len(stolen.Signer)+len(stolen.GossipKey) > 0 {
		t.Errorf("the thief got %+v", stolen)
	}
	session.close()
	_, err = Join(ctx, joiner(t, token))
	wantErr(t, "with a key of its own", err, "used already")
	renamed := cfg
	renamed.ID = "wdc-9"
	_, err = Join(ctx, renamed)
	wantErr(t, "again, under another name", err, "made this machine wdc-1 already")

	claims, err := Join(ctx, cfg)
	if err != nil || claims.ID != "wdc-1" || !claims.HasRole(perigee.RoleSigner) {
		t.Fatalf("again: %+v, %v", claims, err)
	}
	m, _, err := cfg.Dir.load()
	if err != nil || !m.key().Equal(pub) || m.signer == nil {
		t.Fatalf("%+v, %v", m, err)
	}
	if n := len(s.gossip.Tokens()); n != 1 {
		t.Errorf("%d tokens", n)
	}

	person := s.token(TokenSpec{Kind: record.TokenOperator})
	session, err = openJoin(ctx, person, peerlink.Dial)
	if err != nil {
		t.Fatal(err)
	}
	defer session.close()
	for range 2 {
		session.client.Close()
		reply, err := session.login(ctx, thief)
		if err != nil || reply.Role != "operator" || len(reply.Addrs) == 0 {
			t.Errorf("login: %+v, %v", reply, err)
		}
	}
	_, err = session.login(ctx, key)
	wantErr(t, "login with another key", err, "used already")
}

// TestJoinRace lets several machines join at once and ask for the same name.
func TestJoinRace(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	const n = 4
	var wg sync.WaitGroup
	ids, errs := make([]perigee.NodeID, n), make([]error, n)
	for i := range n {
		cfg := joiner(t, s.token(node("wdc")))
		wg.Go(func() {
			c, err := Join(t.Context(), cfg)
			ids[i], errs[i] = c.ID, err
		})
	}
	wg.Wait()
	seen := map[perigee.NodeID]bool{}
	for i, id := range ids {
		if errs[i] != nil || seen[id] || !strings.HasPrefix(string(id), "wdc-") {
			t.Errorf("machine %d is %q: %v", i, id, errs[i])
		}
		seen[id] = true
	}
	for i := range n {
		cfg := joiner(t, s.token(node("wdc")))
		cfg.ID = "same"
		wg.Go(func() { _, errs[i] = Join(t.Context(), cfg) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wantErr(t, "the name is taken", err, `a node "same"`)
	}
	if won != 1 {
		t.Errorf("%d machines are named same", won)
	}
}

// TestJoinElsewhere redeems a token whose addresses lead to a node that may not.
func TestJoinElsewhere(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, wdc, stop := pair(t)
	p := s.person()
	p.Client = wdc.Client()
	token, err := p.CreateToken(ctx, node("syd"))
	if err != nil || token.Signer != "wdc-1" {
		t.Fatalf("%v, %v", token, err)
	}
	mesh := s.cfg.Socket.LocalAddr().String()
	token.Addrs = []string{"no-port", mesh}
	claims, err := Join(ctx, joiner(t, token))
	if err != nil || claims.ID != "syd-1" {
		t.Fatalf("redirected: %+v, %v", claims, err)
	}
	if token, err = p.CreateToken(ctx, node("syd")); err != nil {
		t.Fatal(err)
	}
	token.Addrs = []string{mesh}

	// Another machine with the same name, which joined on the other side of a partition.
	if err := wdc.checkName(); err != nil {
		t.Errorf("its own name: %v", err)
	}
	key := ed25519.PrivateKey(mustKey(t))
	chain, err := s.m.signer.IssueNode(s.m.genesis.Cluster, wdc.Claims(), key.Public().(ed25519.PublicKey), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	twin := &Node{gossip: wdc.gossip, m: &membership{}}
	if twin.m.identity, err = identity.NewNode(s.m.genesis.Cluster, s.m.identity.Root(), key, chain); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "its twin", twin.checkName(), "another machine joined as wdc-1", "join again")

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	wait(t, 10*time.Second, "wdc has left", func() bool { return s.View().Observed.Nodes["wdc-1"].State == perigee.NodeLeft })
	_, err = Join(ctx, joiner(t, token))
	wantErr(t, "its signer is down", err, "only wdc-1", "not up")
}

// TestStrangersCostLittle floods the join server with what can't work: those who have a token get in.
func TestStrangersCostLittle(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	token := s.token(node("wdc"))
	junk, err := identity.NewToken(record.TokenNode, s.m.genesisDigest, "fra-1", token.Addrs)
	if err != nil {
		t.Fatal(err)
	}
	session, err := openJoin(t.Context(), token, peerlink.Dial)
	if err != nil {
		t.Fatal(err)
	}
	defer session.close()
	used := s.token(TokenSpec{Kind: record.TokenDeploy})
	if _, err := Login(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	for range 3 * joinBurst {
		var reply joinReply
		err := session.postSigned(t.Context(), "/join", junk.Key(), junk.Key(), joinRequest{Token: record.KeyIDOf(used.Key().Public().(ed25519.PublicKey)), ID: "x"}, &reply)
		var said *answerError
		if !errors.As(err, &said) {
			t.Fatal(err)
		}
		if err := session.post(t.Context(), "/join", "nonsense", &reply); !errors.As(err, &said) || !strings.Contains(err.Error(), "bad request") {
			t.Fatal(err)
		}
	}
	for range 3 * joinBurst { // of all that is refused for its signature, only so much
		err := session.postSigned(t.Context(), "/renew", junk.Key(), nil, renewRequest{Chain: s.m.identity.Chain()}, &renewReply{})
		if err == nil {
			t.Fatal("a certificate was renewed without its key")
		}
	}
	if _, err := Join(t.Context(), joiner(t, token)); err != nil {
		t.Errorf("behind a flood: %v", err)
	}
	big := make([]byte, maxJoinBody+1)
	err = session.post(t.Context(), "/join", big, nil)
	wantErr(t, "a large body", err, "too large")
}

// TestReachOthers: this node and one of the others that it asks must reach an address; others that
// do not answer don't count.
func TestReachOthers(t *testing.T) {
	addr := netip.MustParseAddrPort("203.0.113.7:7443")
	view := &perigee.View{Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}}}
	for id, region := range map[perigee.NodeID]perigee.Region{"fra-1": "fra", "fra-2": "fra", "wdc-1": "wdc", "syd-1": "syd"} {
		view.Observed.Nodes[id] = &perigee.Peer{NodeClaims: perigee.NodeClaims{ID: id, Region: region}, State: perigee.NodeAlive}
	}
	no, yes, silent := says(http.StatusConflict, nil), says(http.StatusNoContent, nil), says(http.StatusInternalServerError, nil)
	for _, c := range []struct {
		here     error
		syd, wdc peer
		words    string // "" = it may join
	}{
		{nil, yes, yes, ""},
		{nil, no, yes, ""},
		{nil, silent, silent, ""},
		{nil, no, no, "does not answer from syd-1 (syd), wdc-1 (wdc):"},
		{nil, no, silent, "does not answer from syd-1 (syd):"},
		{errBlocked, yes, no, "does not answer from fra-1 (fra), wdc-1 (wdc):"},
		{errBlocked, yes, yes, "does not answer from fra-1 (fra):"},
	} {
		r := reacher{
			self: view.Observed.Nodes["fra-1"].NodeClaims, view: func() *perigee.View { return view },
			reach: func(context.Context, netip.AddrPort) error { return c.here },
			control: func(id perigee.NodeID) http.RoundTripper {
				return map[perigee.NodeID]peer{"syd-1": c.syd, "wdc-1": c.wdc}[id]
			},
		}
		if err := r.check(t.Context(), addr); c.words != "" {
			wantErr(t, c.words, err, c.words, addr.String(), "the token is still good")
			var e *refused
			if errors.As(err, &e); e.deaf != (c.here != nil) {
				t.Errorf("%s: deaf is %v, though this node heard from it, %v", c.words, e.deaf, c.here == nil)
			}
		} else if err != nil {
			t.Errorf("%v", err)
		}
	}
}

// TestJoinSlow: a machine whose answers come too late tries again, as the cluster's probes did come; one that
// no probe reaches is told so at once.
func TestJoinSlow(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	cfg := joiner(t, s.token(node("wdc")))
	line := &badLine{PacketConn: cfg.Socket}
	cfg.Socket = line
	line.deaf.Store(true)
	if _, err := Join(t.Context(), cfg); err == nil || errors.Is(err, errSlow) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a closed port: %v", err)
	}
	line.deaf.Store(false)
	line.lost.Store(3) // all answers to one try
	if _, err := Join(t.Context(), cfg); err != nil || line.lost.Load() >= 0 {
		t.Errorf("a slow machine: %v, %d answers are not lost yet", err, line.lost.Load())
	}
}

// badLine is a socket on which probes don't come, or answers to them get lost.
type badLine struct {
	net.PacketConn
	deaf atomic.Bool
	lost atomic.Int32 // answers to lose
}

func (l *badLine) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := l.PacketConn.ReadFrom(b)
		if err != nil || !l.deaf.Load() || !bytes.HasPrefix(b[:n], []byte("?pg")) {
			return n, from, err
		}
	}
}

func (l *badLine) WriteTo(b []byte, to net.Addr) (int, error) {
	if bytes.HasPrefix(b, []byte("?pg")) && l.lost.Add(-1) >= 0 {
		return len(b), nil
	}
	return l.PacketConn.WriteTo(b, to)
}

// TestReach: what members may have each other try.
func TestReach(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.run()
	h := newReacher(s.Node).handler()
	try := func(addr string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/reach", strings.NewReader(addr)))
		return w.Code
	}
	self := s.cfg.Socket.LocalAddr().String()
	for addr, want := range map[string]int{self: 204, "": 400, "localhost:1": 400, "224.0.0.1:1": 400, ":80": 400, "127.0.0.1:1": 409} {
		if got := try(addr); got != want {
			t.Errorf("reach %q: %d, want %d", addr, got, want)
		}
	}
	refused := 0
	for range 2 * reachBurst {
		if try(self) == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("a member may have any number of addresses tried")
	}
}

// alone takes the copies of a directory's files away.
func alone(t *testing.T, dir Dir) {
	t.Helper()
	if err := os.RemoveAll(dir.path(dirCopies)); err != nil {
		t.Fatal(err)
	}
}

// TestDirErrors damages each file of a data directory that has no copies: the error names the file and what to do.
func TestDirErrors(t *testing.T) {
	s := newSingle(t)
	s.Close()
	for _, c := range []struct {
		file   string
		damage string // "" = remove it
		words  []string
	}{
		{fileGenesis, "", []string{"belongs to no cluster", "perigee cluster init"}},
		{fileGenesis, "junk", []string{"genesis.rec", "join again"}},
		{fileKey, "", []string{"node.key", "join again"}},
		{fileKey, "junk", []string{"node.key", "not a key file"}},
		{fileChain, "", []string{"node.pem", "join again"}},
		{fileChain, "junk", []string{"node.pem", "no certificate"}},
		{fileGossip, "", []string{"gossip.key", "copy the file from another node"}},
		{fileGossip, "abcd", []string{"gossip.key", "32 bytes"}},
		{fileSigner, "junk", []string{"signer.pem", "restore"}},
		{fileSigner, "", []string{"signer.pem", "only one is there"}},
		{fileWeb, "", []string{"web.pem", "only one is there"}},
	} {
		path := s.dir.path(c.file)
		was, readErr := os.ReadFile(path)
		if c.damage == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(c.damage), 0o600); err != nil {
			t.Fatal(err)
		}
		alone(t, s.dir)
		_, err := New(singleConfig(t, s.dir))
		wantErr(t, fmt.Sprintf("%s = %q", c.file, c.damage), err, append(c.words, string(s.dir))...)
		if readErr != nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, was, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.dir.path(fileKey), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := New(singleConfig(t, s.dir))
	wantErr(t, "a key that others can read", err, "node.key")
	if err := os.Chmod(s.dir.path(fileKey), 0o600); err != nil {
		t.Fatal(err)
	}

	// Directories of two clusters, mixed.
	other := newSingle(t)
	other.Close()
	swap := func(name string) (back func()) {
		t.Helper()
		keep, theirs := s.dir.path(name+".keep"), other.dir.path(name)
		if err := errors.Join(os.Rename(s.dir.path(name), keep), os.Rename(theirs, s.dir.path(name))); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := errors.Join(os.Rename(s.dir.path(name), theirs), os.Rename(keep, s.dir.path(name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, words := range map[string][]string{
		fileGenesis: {"do not belong together"}, fileChain: {"do not belong together"}, fileKey: {"do not belong together"},
		fileSigner: {"signer.pem", "cluster"}, "state": {"another cluster", "state/"},
	} {
		back := swap(name)
		alone(t, s.dir)
		_, err := New(singleConfig(t, s.dir))
		wantErr(t, "another cluster's "+name, err, append(words, string(s.dir))...)
		back()
	}
	s.open() // all is as it was
	_, err = New(singleConfig(t, s.dir))
	wantErr(t, "a second node on one directory", err, "another node runs with this data directory")
	_, err = Found(FoundConfig{Dir: s.dir, Region: "fra"})
	wantErr(t, "found while it runs", err, "another node runs")
	s.Close()
	_, err = Found(FoundConfig{Dir: s.dir, Region: "fra"})
	wantErr(t, "found where there is one", err, "already belongs to a cluster")
	for what, cfg := range map[string]FoundConfig{
		"region":  {Region: "atlantis"},
		"node id": {Region: "fra", ID: "A"},
		"domain":  {Region: "fra", Domain: "-"},
	} {
		cfg.Dir = Dir(filepath.Join(t.TempDir(), "new"))
		_, err := Found(cfg)
		wantErr(t, what, err, what)
		if cfg.Dir.Member() {
			t.Errorf("%s: the directory was written", what)
		}
	}
}

// TestAddress: where a node says that it is reached.
func TestAddress(t *testing.T) {
	s := newSingle(t)
	local := s.cfg.Socket.LocalAddr().String()
	parsed, err := localAddr(s.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(parsed.Port())
	for _, c := range []struct {
		set  string
		seed seedFile
		want string
	}{
		{"", seedFile{}, local},
		{"203.0.113.7:17443", seedFile{}, "203.0.113.7:17443"},
		{":17443", seedFile{}, "127.0.0.1:17443"},
		{"[2001:db8::1]:7443", seedFile{}, "[2001:db8::1]:7443"},
		{"", seedFile{Advertise: "203.0.113.7:17443", Local: parsed.Port()}, "203.0.113.7:17443"},
		{"", seedFile{Advertise: "203.0.113.7:" + port, Local: 1}, local},
		{"", seedFile{Advertise: "203.0.113.7:" + port, Local: parsed.Port(), Own: true}, local}, // the machine has moved
		{"", seedFile{Advertise: "127.0.0.1:17443", Local: parsed.Port(), Own: true}, "127.0.0.1:17443"},
	} {
		s.cfg.Advertise, s.seeds = c.set, c.seed
		got, err := s.advertise()
		if err != nil || got.String() != c.want {
			t.Errorf("%q, %+v: %v, %v, want %s", c.set, c.seed, got, err, c.want)
		}
	}
	_, err = s.renewer.join.reachable(t.Context(), "203.0.113.9:1000", "127.0.0.1:7443")
	wantErr(t, "a loopback address from afar", err, "loopback")
	_, err = s.renewer.join.reachable(t.Context(), "pipe", "")
	wantErr(t, "no address at all", err, "pipe")
	for _, bad := range []string{"x", "host:1", "1.2.3.4", "1.2.3.4:0", ":99999", "[::]:7443", "224.0.0.1:1", "[fe80::1%eth0]:1"} {
		s.cfg.Advertise = bad
		_, err := s.advertise()
		wantErr(t, bad, err, "advertise", "IP:PORT")
	}
}
