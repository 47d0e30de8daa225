package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/placement"
)

// webSigner has certificates for hosts without a public name signed: by this node if it is a signer,
// else by asking one over the control connection:
//
//	POST /web/sign    a certificate request (DER) -> the chain (PEM)
type webSigner struct {
	m       *membership
	gossip  *gossip.Gossip
	control func(perigee.NodeID) http.RoundTripper
	nearest func([]perigee.NodeID) []perigee.NodeID
	limit   *rate.Limiter // of what others ask
}

const (
	maxCSR   = 16 << 10
	signTime = 2500 * time.Millisecond // for one signer; a TLS handshake waits
	signMost = 3                       // signers asked
	signRate = 20                      // a second
)

func newWebSigner(n *Node) *webSigner {
	return &webSigner{m: n.m, gossip: n.gossip, control: n.link.Control, nearest: n.rep.nearest, limit: rate.NewLimiter(signRate, 5*signRate)}
}

// sign returns the chain for a certificate request, as PEM.
func (s *webSigner) sign(ctx context.Context, csr []byte) ([]byte, error) {
	if s.m.web != nil {
		return s.issue(csr, s.m.identity.Claims())
	}
	var signers []perigee.NodeID
	for id, p := range s.gossip.View().Observed.Nodes {
		if p.HasRole(perigee.RoleSigner) && (p.State == perigee.NodeAlive || p.State == perigee.NodeSuspect) {
			signers = append(signers, id)
		}
	}
	if len(signers) == 0 {
		return nil, errors.New("no signer node is up: start one (`perigee node ls` shows the roles)")
	}
	var errs []error
	for _, id := range s.nearest(signers)[:min(len(signers), signMost)] {
		chain, err := s.ask(ctx, id, csr)
		if err == nil {
			return chain, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", id, err))
	}
	return nil, errors.Join(errs...)
}

func (s *webSigner) ask(ctx context.Context, id perigee.NodeID, csr []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	return call(ctx, s.control(id), "/web/sign", csr)
}

// issue signs only for hosts that a function answers at, and for nodes that may end their TLS. The rest of
// the request is checked by the CA.
func (s *webSigner) issue(der []byte, node perigee.NodeClaims) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	desired := s.gossip.View().Desired
	for _, name := range csr.DNSNames {
		if !desired.HasHost(name) {
			return nil, fmt.Errorf("no function answers at %q", name)
		}
		if rule, ok := placement.Terminates(desired, name, node); !ok {
			return nil, fmt.Errorf("%s excludes %s: it may have no key for %q", rule, node.ID, name)
		}
	}
	return s.m.web.IssueWeb(csr, time.Now())
}

func (s *webSigner) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		der, err := io.ReadAll(http.MaxBytesReader(w, io.NopCloser(newPaced(w, r, time.Now().Add(stallTime))), maxCSR))
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		case s.m.web == nil:
			http.Error(w, "this node is not a signer", http.StatusForbidden)
			return
		case !s.limit.Allow():
			http.Error(w, "too many certificates at once: try again", http.StatusTooManyRequests)
			return
		}
		from, _ := peerOf(r) // without claims, every residency excludes it
		chain, err := s.issue(der, from)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		w.Write(chain)
	})
}
