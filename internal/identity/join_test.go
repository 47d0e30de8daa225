package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestJoinClientRefuses(t *testing.T) {
	l, other := newLab(t), newLab(t)
	twin := newLabOf(t, l.cluster)
	n := l.node("a", 0)
	web := must(NewWebRoot(l.cluster, l.now))(t)
	answering := func(certs ...[]byte) *tls.Config {
		c := n.JoinServerTLS(alpn)
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: certs, PrivateKey: n.Key()}, nil
		}
		return c
	}
	leaf, inter := n.Chain()[0], n.Chain()[1]
	self := must(personCertificate(n.Key()))(t).Certificate[0]
	for name, tc := range map[string]struct {
		server *tls.Config
		check  func(*x509.Certificate) error
		want   string
	}{
		"another root than expected": {n.JoinServerTLS(alpn), func(*x509.Certificate) error { return errors.New("another cluster") }, "refuse Perigee " + string(l.cluster) + " mesh CA: another cluster"},
		"without the root":           {answering(leaf, inter), nil, "is not the root of a mesh"},
		"leaf alone":                 {answering(leaf), nil, "chain of 1"},
		"a person":                   {answering(self), nil, "chain of 1"},
		"a person twice":             {answering(self, self), nil, "no CA of a cluster"},
		"too long":                   {answering(leaf, inter, inter, l.root.Cert().Raw), nil, "chain of 4"},
		"root of another cluster":    {answering(leaf, inter, other.root.Cert().Raw), nil, "belongs to cluster"},
		"root of an impostor":        {answering(leaf, inter, twin.root.Cert().Raw), nil, "not signed by this cluster's CA"},
		"web root":                   {answering(leaf, inter, web.Cert().Raw), nil, "is not the root of a mesh"},
		"expired":                    {l.node("a", 31*day).JoinServerTLS(alpn), nil, "check the clocks of both machines"},
		"peers' port":                {n.PeerServerTLS([]string{alpn}, nil), nil, "is not the root of a mesh"},
	} {
		t.Run(name, func(t *testing.T) {
			r := handshake(t, JoinClientTLS(alpn, tc.check), tc.server)
			wantError(t, r.clientErr, tc.want)
		})
	}
	if r := handshake(t, JoinClientTLS(alpn, nil), n.JoinServerTLS(alpn)); !r.ok() {
		t.Errorf("the good one: %v, %v", r.clientErr, r.serverErr)
	}
	plain := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	wantError(t, handshake(t, plain, n.JoinServerTLS(alpn)).serverErr, `application protocol ""`)
}

// TestRootMustSignItself has a root of the right name and rights that another CA signed.
func TestRootMustSignItself(t *testing.T) {
	l := newLab(t)
	forger := &Authority{cluster: l.cluster, kind: caMesh, key: must(NewKey())(t)}
	tmpl := *l.root.Cert()
	cert := must(sign(&tmpl, l.root.Cert(), forger.key.Public(), l.root.key))(t)
	forger.chain = []*x509.Certificate{cert}
	key := must(NewKey())(t)
	chain := must(forger.IssueNode(l.cluster, claimsFor("a"), public(key), l.now))(t)
	_, err := NewNode(l.cluster, cert, key, chain)
	wantError(t, err, "is not signed by itself")
	server := l.node("a", 0).JoinServerTLS(alpn)
	server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: append(chain, cert.Raw), PrivateKey: key}, nil
	}
	wantError(t, handshake(t, JoinClientTLS(alpn, nil), server).clientErr, "is not signed by itself")
}

func TestJoinProof(t *testing.T) {
	l := newLab(t)
	n := l.node("a", 0)
	first := handshake(t, JoinClientTLS(alpn, nil), n.JoinServerTLS(alpn))
	second := handshake(t, JoinClientTLS(alpn, nil), n.JoinServerTLS(alpn))
	tok := must(NewToken("node", [32]byte{1}, "a", []string{"192.0.2.1:1"}))(t)
	pub := tok.Key().Public().(ed25519.PublicKey)
	body := []byte("let me in")
	proof := must(JoinProof(tok.Key(), first.client, body))(t)
	if err := CheckJoinProof(pub, first.server, body, proof); err != nil {
		t.Errorf("the good one: %v", err)
	}
	spoilt := slices.Clone(proof)
	spoilt[5] ^= 1
	for name, tc := range map[string]struct {
		pub         ed25519.PublicKey
		cs          tls.ConnectionState
		body, proof []byte
		want        string
	}{
		"other connection":        {pub, second.server, body, proof, "does not fit"},
		"other body":              {pub, first.server, []byte("let him in"), proof, "does not fit"},
		"other key":               {public(n.Key()), first.server, body, proof, "does not fit"},
		"short key":               {pub[:31], first.server, body, proof, "does not fit"},
		"no key":                  {nil, first.server, body, proof, "does not fit"},
		"changed":                 {pub, first.server, body, spoilt, "does not fit"},
		"cut":                     {pub, first.server, body, proof[:63], "does not fit"},
		"none":                    {pub, first.server, body, nil, "does not fit"},
		"before the handshake":    {pub, tls.ConnectionState{}, body, proof, "no complete TLS 1.3 handshake"},
		"state made by hand only": {pub, tls.ConnectionState{Version: tls.VersionTLS13}, body, proof, "no complete TLS 1.3 handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, CheckJoinProof(tc.pub, tc.cs, tc.body, tc.proof), "check join proof", tc.want)
		})
	}
	_, err := JoinProof(nil, first.client, body)
	wantError(t, err, "make join proof: key of 0 bytes")
	_, err = JoinProof(tok.Key(), tls.ConnectionState{}, body)
	wantError(t, err, "no complete TLS 1.3 handshake")
}

// TestProofThroughTheMiddle plays a false server that passes on what a joiner sends it.
func TestProofThroughTheMiddle(t *testing.T) {
	l := newLab(t)
	mallory, victim := newLab(t).node("a", 0), l.node("a", 0)
	joiner := handshake(t, JoinClientTLS(alpn, nil), mallory.JoinServerTLS(alpn))
	onward := handshake(t, JoinClientTLS(alpn, nil), victim.JoinServerTLS(alpn))
	tok := must(NewToken("node", [32]byte{1}, "a", []string{"192.0.2.1:1"}))(t)
	proof := must(JoinProof(tok.Key(), joiner.client, []byte("body")))(t)
	if err := CheckJoinProof(tok.Key().Public().(ed25519.PublicKey), joiner.server, []byte("body"), proof); err != nil {
		t.Fatal(err)
	}
	err := CheckJoinProof(tok.Key().Public().(ed25519.PublicKey), onward.server, []byte("body"), proof)
	wantError(t, err, "does not fit")
}

// TestTimeIsTheConnections guards against a configuration that remembers when it was made.
func TestTimeIsTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		client, server := JoinClientTLS(alpn, nil), l.node("a", 0).JoinServerTLS(alpn)
		for _, days := range []time.Duration{0, 29, 2} {
			time.Sleep(days * day) // fake time
			c, s := net.Pipe()
			r := handshakeOver(t, tls.Client(c, client), tls.Server(s, server))
			if good := time.Since(l.now) < NodeLifetime; good != r.ok() {
				t.Errorf("after %v: %v", time.Since(l.now), r.clientErr)
			}
			if r.clientErr != nil {
				wantError(t, r.clientErr, "check the clocks")
			}
		}
	})
}
