package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

const alpn = "perigee-test/1"

// result is what both ends of a handshake know.
type result struct {
	client, server       tls.ConnectionState
	clientErr, serverErr error
}

func (r result) ok() bool { return r.clientErr == nil && r.serverErr == nil }

// handshake connects both configurations over loopback TCP. A TLS 1.3 client learns of its refusal
// only when it reads, so the server sends a byte.
func handshake(t *testing.T, client, server *tls.Config) result {
	t.Helper()
	c, s := connect(t)
	return handshakeOver(t, tls.Client(c, client), tls.Server(s, server))
}

func handshakeOver(t *testing.T, client, server *tls.Conn) (r result) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r.serverErr = server.HandshakeContext(ctx); r.serverErr == nil {
			_, r.serverErr = server.Write([]byte{1})
		}
		if r.serverErr != nil {
			finish(server)
		}
	}()
	if r.clientErr = client.HandshakeContext(ctx); r.clientErr == nil {
		_, r.clientErr = client.Read(make([]byte, 1))
	}
	if r.clientErr != nil {
		finish(client)
	}
	<-done
	r.client, r.server = client.ConnectionState(), server.ConnectionState()
	return r
}

// finish ends a failed connection's own direction, behind the alert that is on its way.
func finish(c *tls.Conn) {
	if tcp, ok := c.NetConn().(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
}

func connect(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	client = must(net.Dial("tcp", l.Addr().String()))(t)
	server = must(l.Accept())(t)
	for _, c := range []net.Conn{client, server} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

// TestAllPairs connects every kind of client with every kind of server, with one protocol name, so
// that nothing but the certificates decides.
func TestAllPairs(t *testing.T) {
	l := newLab(t)
	a, b := l.node("a", 0), l.node("b", 0)
	operator := must(NewKey())(t)
	person := must(PersonClientTLS(alpn, operator, l.root.Cert(), l.cluster))(t)
	var seen *x509.Certificate
	clients := map[string]*tls.Config{
		"peer":   b.PeerClientTLS(alpn, "a", nil),
		"join":   JoinClientTLS(alpn, func(root *x509.Certificate) error { seen = root; return nil }),
		"person": person,
	}
	servers := map[string]*tls.Config{
		"peer": a.PeerServerTLS([]string{alpn}, nil), "join": a.JoinServerTLS(alpn), "admin": a.AdminServerTLS(alpn),
	}
	good := map[string]string{"peer>peer": "b", "join>join": "", "person>admin": "", "person>join": ""} // value: who the server sees as a node
	for cn, c := range clients {
		for sn, s := range servers {
			name := cn + ">" + sn
			t.Run(name, func(t *testing.T) {
				r := handshake(t, c, s)
				node, want := good[name]
				if r.ok() != want {
					t.Fatalf("client: %v; server: %v", r.clientErr, r.serverErr)
				}
				if !want {
					return
				}
				claims, isNode := PeerClaims(r.server)
				if isNode != (node != "") || string(claims.ID) != node {
					t.Errorf("server sees node %q", claims.ID)
				}
				key, isPerson := PersonKey(r.server)
				if isPerson != (sn == "admin") || (isPerson && !key.Equal(operator.Public())) {
					t.Errorf("server sees person %v, key %x", isPerson, key)
				}
				if claims, ok := PeerClaims(r.client); !ok || claims.ID != "a" {
					t.Errorf("client sees node %q", claims.ID)
				}
				if _, ok := PersonKey(r.client); ok {
					t.Error("client takes the server for a person")
				}
				root, ok := PeerRoot(r.client)
				if ok != (sn != "peer") || (ok && !root.Equal(l.root.Cert())) {
					t.Errorf("client sees a root: %v", ok)
				}
				if r.client.Version != tls.VersionTLS13 || r.client.NegotiatedProtocol != alpn {
					t.Errorf("version %x, protocol %q", r.client.Version, r.client.NegotiatedProtocol)
				}
			})
		}
	}
	if seen == nil || !seen.Equal(l.root.Cert()) {
		t.Error("JoinClientTLS did not show the root to check")
	}
}

func TestConfigsAreStrict(t *testing.T) {
	l := newLab(t)
	n := l.node("a", 0)
	person := must(PersonClientTLS(alpn, n.Key(), l.root.Cert(), l.cluster))(t)
	for name, c := range map[string]*tls.Config{
		"peer server": n.PeerServerTLS([]string{alpn}, nil), "peer client": n.PeerClientTLS(alpn, "", nil), "join server": n.JoinServerTLS(alpn),
		"join client": JoinClientTLS(alpn, nil), "admin server": n.AdminServerTLS(alpn), "person client": person,
	} {
		if c.MinVersion != tls.VersionTLS13 || c.MaxVersion != tls.VersionTLS13 || !c.SessionTicketsDisabled || c.VerifyConnection == nil || c.VerifyPeerCertificate != nil {
			t.Errorf("%s: %x to %x, no tickets %v", name, c.MinVersion, c.MaxVersion, c.SessionTicketsDisabled)
		}
		if len(c.NextProtos) != 1 || c.NextProtos[0] != alpn {
			t.Errorf("%s: protocols %q", name, c.NextProtos)
		}
	}
}

// TestPeersRefuse has one bad end in each case; wantServer and wantClient are words of that end's
// own error, and an end without words learns of it from an alert.
func TestPeersRefuse(t *testing.T) {
	l, foreign := newLab(t), newLab(t)
	twin := newLabOf(t, l.cluster)
	server, client := l.node("server", 0), l.node("client", 0)
	serve := func(n *Node) *tls.Config { return n.PeerServerTLS([]string{alpn}, nil) }
	dial := func(n *Node) *tls.Config { return n.PeerClientTLS(alpn, "", nil) }
	revoked := func(id perigee.NodeID) func(perigee.NodeClaims) error {
		return func(c perigee.NodeClaims) error {
			if c.ID == id {
				return errors.New("it was revoked")
			}
			return nil
		}
	}
	presenting := func(chain [][]byte, key crypto.Signer) *tls.Config {
		c := dial(client)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
		}
		return c
	}
	answering := func(chain [][]byte, key crypto.Signer) *tls.Config {
		c := serve(server)
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
		}
		return c
	}
	with := func(c *tls.Config, change func(*tls.Config)) *tls.Config {
		change(c)
		return c
	}
	ec, rs := ecdsaKey(t), rsaKey(t)
	ecChain, rsChain := l.forge(l.leafTemplate(l.uri("n")), ec.Public()), l.forge(l.leafTemplate(l.uri("n")), rs.Public())
	thief := must(NewKey())(t)
	for name, tc := range map[string]struct {
		client, server         *tls.Config
		wantClient, wantServer string
	}{
		"server of another cluster":        {dial(client), with(serve(foreign.node("server", 0)), func(c *tls.Config) { c.VerifyConnection = nil }), "belongs to cluster", ""},
		"client of another cluster":        {with(dial(foreign.node("client", 0)), accept), serve(server), "", "belongs to cluster"},
		"impostor server":                  {dial(client), with(serve(twin.node("server", 0)), func(c *tls.Config) { c.VerifyConnection = nil }), "not signed by this cluster's CA", ""},
		"impostor client":                  {with(dial(twin.node("client", 0)), accept), serve(server), "", "not signed by this cluster's CA"},
		"expired server":                   {dial(client), serve(l.node("server", 31*day)), "renews it when it starts", ""},
		"expired client":                   {dial(l.node("client", 31*day)), serve(server), "", "renews it when it starts"},
		"server not valid yet":             {dial(client), serve(l.node("server", -11*time.Minute)), "check the clocks", ""},
		"revoked server":                   {client.PeerClientTLS(alpn, "", revoked("server")), serve(server), "refuse node server: it was revoked", ""},
		"revoked client":                   {dial(client), server.PeerServerTLS([]string{alpn}, revoked("client")), "", "refuse node client: it was revoked"},
		"other node than wanted":           {client.PeerClientTLS(alpn, "fra-9", nil), serve(server), "dial node fra-9: node server answered", ""},
		"ECDSA client":                     {presenting(ecChain, ec), serve(server), "", "ECDSA P-256 key: want an Ed25519 key"},
		"RSA client":                       {presenting(rsChain, rs), serve(server), "", "RSA 2048 bit key: want an Ed25519 key"},
		"ECDSA server":                     {dial(client), answering(ecChain, ec), "ECDSA P-256 key: want an Ed25519 key", ""},
		"RSA server":                       {dial(client), answering(rsChain, rs), "RSA 2048 bit key: want an Ed25519 key", ""},
		"no client certificate":            {with(dial(client), func(c *tls.Config) { c.GetClientCertificate = nil }), serve(server), "", "didn't provide a certificate"},
		"person at the peers' port":        {must(PersonClientTLS(alpn, thief, l.root.Cert(), l.cluster))(t), serve(server), "", "no identity URI"},
		"client with a stolen certificate": {presenting(client.Chain(), thief), serve(server), "", "invalid signature by the client certificate"},
		"server with a stolen certificate": {dial(client), answering(server.Chain(), thief), "invalid signature by the server certificate", ""},
		"client without intermediate":      {presenting(client.Chain()[:1], client.Key()), serve(server), "", "not signed by this cluster's CA"},
		"client with spare certificates":   {presenting(append(client.Chain(), l.root.Cert().Raw), client.Key()), serve(server), "", "without the root"},
		"TLS 1.2 client":                   {with(dial(client), func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }), serve(server), "", "unsupported versions"},
		"TLS 1.2 server":                   {dial(client), with(serve(server), func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }), "protocol version", ""},
		"client with another protocol":     {client.PeerClientTLS("h2", "", nil), serve(server), "", "unsupported application protocols"},
		"client without protocol":          {with(dial(client), func(c *tls.Config) { c.NextProtos = nil; accept(c) }), serve(server), "", `application protocol ""`},
		"server without protocol":          {dial(client), with(serve(server), func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }), `application protocol ""`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := handshake(t, tc.client, tc.server)
			wantError(t, r.clientErr, tc.wantClient)
			wantError(t, r.serverErr, tc.wantServer)
		})
	}
	if r := handshake(t, dial(client), serve(server)); !r.ok() {
		t.Errorf("the good pair: %v, %v", r.clientErr, r.serverErr)
	}
	if r := handshake(t, client.PeerClientTLS(alpn, "server", revoked("x")), server.PeerServerTLS([]string{"other/1", alpn}, revoked("x"))); !r.ok() {
		t.Errorf("the good pair with rules: %v, %v", r.clientErr, r.serverErr)
	}
}

// accept makes a client that checks nothing, so that the server has to.
func accept(c *tls.Config) { c.VerifyConnection = nil }

func TestAdminRefuses(t *testing.T) {
	l := newLab(t)
	n := l.node("a", 0)
	key := must(NewKey())(t)
	presenting := func(key crypto.Signer, issuer *x509.Certificate, signer crypto.Signer, change func(*x509.Certificate)) *tls.Config {
		tmpl := &x509.Certificate{NotBefore: time.Unix(0, 0), NotAfter: l.now.Add(day)}
		change(tmpl)
		if issuer == nil {
			issuer = tmpl
		}
		cert := must(sign(tmpl, issuer, key.Public(), signer))(t)
		c := clientTLS(alpn, func(tls.ConnectionState) error { return nil })
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
		return c
	}
	nothing := func(*x509.Certificate) {}
	ec, rs := ecdsaKey(t), rsaKey(t)
	noProtocol := must(PersonClientTLS(alpn, key, l.root.Cert(), l.cluster))(t)
	noProtocol.NextProtos, noProtocol.VerifyConnection = nil, nil
	withNode := clientTLS(alpn, func(tls.ConnectionState) error { return nil })
	withNode.Certificates = []tls.Certificate{*n.current.Load().plain}
	for name, tc := range map[string]struct {
		client *tls.Config
		want   string
	}{
		"nobody":            {JoinClientTLS(alpn, nil), "didn't provide a certificate"},
		"no protocol":       {noProtocol, `application protocol ""`},
		"ECDSA":             {presenting(ec, nil, ec, nothing), "ECDSA P-256 key: want an Ed25519 key"},
		"RSA":               {presenting(rs, nil, rs, nothing), "RSA 2048 bit key: want an Ed25519 key"},
		"node":              {withNode, "2 client certificates"},
		"signed by a CA":    {presenting(key, l.signer.Cert(), l.signer.key, nothing), "not signed by its own key"},
		"claiming a node":   {presenting(key, nil, key, func(c *x509.Certificate) { c.URIs = []*url.URL{must(url.Parse(l.uri("a")))(t)} }), "certificate with names"},
		"claiming a host":   {presenting(key, nil, key, func(c *x509.Certificate) { c.DNSNames = []string{"a"} }), "certificate with names"},
		"large certificate": {presenting(key, nil, key, func(c *x509.Certificate) { c.OCSPServer = []string{"http://" + string(make([]byte, maxCert))} }), "the limit is 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			r := handshake(t, tc.client, n.AdminServerTLS(alpn))
			wantError(t, r.serverErr, tc.want)
			if _, ok := PeerClaims(r.server); ok {
				t.Error("the server sees a node")
			}
			if _, ok := PersonKey(r.server); ok {
				t.Error("the server sees a person")
			}
		})
	}
	other := newLab(t)
	_, err := PersonClientTLS(alpn, key, other.root.Cert(), l.cluster)
	wantError(t, err, "root of cluster "+string(other.cluster))
	_, err = PersonClientTLS(alpn, key, nil, l.cluster)
	wantError(t, err, "no root certificate")
	_, err = PersonClientTLS(alpn, key[:10], l.root.Cert(), l.cluster)
	wantError(t, err, "key of 10 bytes")
	for name, bad := range map[string]*Node{"foreign": other.node("a", 0), "impostor": newLabOf(t, l.cluster).node("a", 0), "expired": l.node("a", 31*day)} {
		r := handshake(t, must(PersonClientTLS(alpn, key, l.root.Cert(), l.cluster))(t), bad.AdminServerTLS(alpn))
		if r.clientErr == nil {
			t.Errorf("a person trusts a server that is %s", name)
		}
	}
}

func TestNoResumption(t *testing.T) {
	l := newLab(t)
	a, b := l.node("a", 0), l.node("b", 0)
	client, server := b.PeerClientTLS(alpn, "a", nil), a.PeerServerTLS([]string{alpn}, nil)
	client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(8), "a"
	for i := range 3 {
		r := handshake(t, client, server)
		if !r.ok() {
			t.Fatal(r.clientErr, r.serverErr)
		}
		if r.client.DidResume || r.server.DidResume {
			t.Errorf("handshake %d resumed a session", i)
		}
	}
	if err := checkProtocol(tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: alpn, DidResume: true}, []string{alpn}); err == nil {
		t.Error("a resumed session is accepted")
	}
}

func TestRenewalReachesNewConnections(t *testing.T) {
	l := newLab(t)
	a, b := l.node("a", 0), l.node("b", 31*day)
	client, server := b.PeerClientTLS(alpn, "a", nil), a.PeerServerTLS([]string{alpn}, nil)
	if r := handshake(t, client, server); r.ok() {
		t.Fatal("the expired certificate is accepted")
	}
	renewed := claimsFor("b")
	renewed.Region = "syd"
	if err := b.SetChain(l.issue(renewed, b.Key(), 0)); err != nil {
		t.Fatal(err)
	}
	r := handshake(t, client, server)
	if !r.ok() {
		t.Fatal(r.clientErr, r.serverErr)
	}
	if claims, _ := PeerClaims(r.server); claims.Region != "syd" {
		t.Errorf("the server sees region %q", claims.Region)
	}
	moved := claimsFor("a")
	moved.Region = "tok"
	if err := a.SetChain(l.issue(moved, a.Key(), 0)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*tls.Config{"peer": client, "join": JoinClientTLS(alpn, nil)} {
		s := server
		if name == "join" {
			s = a.JoinServerTLS(alpn)
		}
		r := handshake(t, c, s)
		if claims, _ := PeerClaims(r.client); claims.Region != "tok" {
			t.Errorf("%s client sees region %q: %v", name, claims.Region, r.clientErr)
		}
	}
}

func TestNothingIsKnownBeforeTheHandshake(t *testing.T) {
	l := newLab(t)
	leaf := l.node("a", 0).current.Load().leaf
	cs := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{leaf, l.root.Cert()}}
	if _, ok := PeerClaims(cs); ok {
		t.Error("PeerClaims answers")
	}
	if _, ok := PeerRoot(cs); ok {
		t.Error("PeerRoot answers")
	}
	person := must(personCertificate(must(NewKey())(t)))(t)
	cs.PeerCertificates = []*x509.Certificate{person.Leaf}
	if _, ok := PersonKey(cs); ok {
		t.Error("PersonKey answers")
	}
	cs.HandshakeComplete = true
	if _, ok := PersonKey(cs); !ok {
		t.Error("PersonKey does not answer after the handshake")
	}
}
