package node_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/identity"
)

// TestTicketsAreShared goes on with a TLS session of one node at another, over TCP and QUIC, and sees that the keys of
// a host with a residency go no further than it.
func TestTicketsAreShared(t *testing.T) {
	f := cluster(t, "fra", "wdc")
	a, b := f.Members()[0], f.Members()[1]
	deploy(t, f, pack(t, "open", nil, perigee.Policy{}))
	deploy(t, f, pack(t, "kept", nil, perigee.Policy{Residency: []string{"fra"}}))

	session, sessionQUIC := tls.NewLRUClientSessionCache(1), tls.NewLRUClientSessionCache(1)
	eventually(t, 30*time.Second, "a session goes on at the other node", func() error {
		for _, m := range []*fleet.Member{a, b} {
			resumed, err := overTCP(m, f, "open.localhost", session)
			quicResumed, quicErr := overQUIC(t, m, f, "open.localhost", sessionQUIC)
			if err != nil || quicErr != nil {
				return fmt.Errorf("%s: %v, %v", m.ID(), err, quicErr)
			}
			if m == b && !(resumed && quicResumed) {
				return fmt.Errorf("resumed over TCP %v, over QUIC %v", resumed, quicResumed)
			}
		}
		return nil
	})
	name := perigee.WebName{Item: perigee.WebTickets, Name: "kept.localhost"}
	eventually(t, 30*time.Second, "the host with a residency has keys", func() error {
		if b.View().Desired.Web[name] == nil {
			return fmt.Errorf("none")
		}
		return nil
	})
	env, err := identity.ParseEnvelope(b.View().Desired.Web[name].Sealed)
	if err != nil || !env.SealedTo(a.ID()) || env.SealedTo(b.ID()) {
		t.Errorf("keys that belong to fra only are sealed to %s: %v, to %s: %v (%v)", a.ID(), env.SealedTo(a.ID()), b.ID(), env.SealedTo(b.ID()), err)
	}
}

func overTCP(m *fleet.Member, f *fleet.Fleet, host string, cache tls.ClientSessionCache) (resumed bool, err error) {
	raw, err := net.Dial("tcp", m.HTTPS())
	if err != nil {
		return false, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, &tls.Config{ServerName: host, RootCAs: f.Roots(), ClientSessionCache: cache})
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return false, err
	}
	_, err = io.Copy(io.Discard, c) // the ticket comes with the response
	return c.ConnectionState().DidResume, err
}

func overQUIC(t *testing.T, m *fleet.Member, f *fleet.Fleet, host string, cache tls.ClientSessionCache) (resumed bool, err error) {
	c, err := quic.DialAddr(t.Context(), m.HTTPS(), &tls.Config{ServerName: host, RootCAs: f.Roots(), ClientSessionCache: cache, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		return false, err
	}
	defer c.CloseWithError(0, "")
	s, err := c.AcceptUniStream(t.Context()) // the ticket has come by now
	if err != nil {
		return false, err
	}
	_, _ = s.Read(make([]byte, 1))
	return c.ConnectionState().TLS.DidResume, nil
}
