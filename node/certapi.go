package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

// CertStatus is how a host is served over HTTPS.
type CertStatus struct {
	Host    string         `json:"host"`              // or "*." and a domain
	From    string         `json:"from"`              // "public" (a shared certificate) or "cluster" (the cluster's own CA)
	Expires time.Time      `json:"expires,omitzero"`  // of a shared one
	Created time.Time      `json:"created,omitzero"`  // when it was shared
	By      perigee.NodeID `json:"by,omitempty"`      // the issuer that shared it
	Issuer  perigee.NodeID `json:"issuer,omitempty"`  // the one responsible now; empty = none, or no CA is configured there
	Here    bool           `json:"here"`              // the node asked has its key
	Running bool           `json:"running,omitempty"` // an order is under way
	Error   string         `json:"error,omitempty"`   // of the last order
	Next    time.Time      `json:"next,omitzero"`     // when the next may begin
}

// CertImport is a certificate from elsewhere, as PEM.
type CertImport struct {
	Host  string `json:"host"`
	Chain []byte `json:"chain"`
	Key   []byte `json:"key"`
}

const maxImport = 64 << 10

func (n *Node) certRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/certs", reply(n.serveCerts))
	mux.HandleFunc("POST /v1/certs/renew", reply(n.serveCertRenew))
	mux.HandleFunc("POST /v1/certs/import", reply(n.serveCertImport))
}

// certControl adds what members ask of one another.
func (n *Node) certControl(mux *http.ServeMux) {
	mux.Handle("GET /web/challenges", membersOnly(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, n.issuer.challengesHere(r.URL.Query().Get("host")))
	}))
	mux.Handle("GET /web/orders", membersOnly(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.issuer.known())
	}))
	mux.Handle("POST /web/renew", membersOnly(func(w http.ResponseWriter, r *http.Request) {
		answer(w, n.issuer.renewNow(r.URL.Query().Get("name")))
	}))
	mux.Handle("POST /web/import", membersOnly(func(w http.ResponseWriter, r *http.Request) {
		var in CertImport
		err := json.NewDecoder(http.MaxBytesReader(w, io.NopCloser(newPaced(w, r, time.Now().Add(stallTime))), maxImport)).Decode(&in)
		if err == nil {
			err = n.issuer.importCert(r.Context(), &in)
		}
		answer(w, err)
	}))
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// serveCerts is GET /v1/certs: every host that functions answer at.
func (n *Node) serveCerts(r *http.Request) (any, error) {
	view := n.View()
	orders := n.issuer.known()
	for _, b := range n.issuer.ask(r.Context(), "/web/orders") {
		var theirs map[string]order
		if json.Unmarshal(b, &theirs) == nil {
			for name, o := range theirs {
				orders[name] = o
			}
		}
	}
	byName := map[string]*CertStatus{}
	for host := range view.Desired.Hosts() {
		s := &CertStatus{Host: host, From: "cluster"}
		name := host
		if e := view.Desired.CertificateFor(host); e != nil {
			name = e.Name
			s = &CertStatus{Host: name, From: "public", Expires: e.Expires, Created: e.Created, By: e.By, Here: n.webCerts.forHost(host) != nil}
		}
		if o, ok := orders[name]; ok {
			s.Issuer, s.Running, s.Error, s.Next = n.issuer.responsible(view, name), o.Running, o.Error, o.Next
		}
		byName[name] = s
	}
	list := make([]CertStatus, 0, len(byName))
	for _, s := range byName {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b CertStatus) int { return cmp.Compare(a.Host, b.Host) })
	return list, nil
}

// operator refuses everybody but operators and the admin socket.
func (n *Node) operator(r *http.Request, what string) error {
	if pub, ok := peerlink.PersonFrom(r.Context()); ok {
		if p, known := n.gossip.Person(record.KeyIDOf(pub)); !known || p.Role != record.TokenOperator {
			return &gossip.RefusedError{Rule: gossip.RuleRight, Text: what + ": this needs an operator key"}
		}
	}
	return nil
}

func (n *Node) serveCertRenew(r *http.Request) (any, error) {
	if err := n.operator(r, "renew a certificate"); err != nil {
		return nil, err
	}
	name := r.URL.Query().Get("name")
	to := n.issuer.responsible(n.View(), name)
	if to == n.ID() {
		return struct{}{}, n.issuer.renewNow(name)
	}
	return struct{}{}, n.tellIssuer(r.Context(), to, "/web/renew?name="+url.QueryEscape(name), nil)
}

func (n *Node) serveCertImport(r *http.Request) (any, error) {
	if err := n.operator(r, "import a certificate"); err != nil {
		return nil, err
	}
	var in CertImport
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxImport)).Decode(&in); err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	to := n.issuer.responsible(n.View(), in.Host)
	if to == n.ID() {
		return struct{}{}, n.issuer.importCert(r.Context(), &in)
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	return struct{}{}, n.tellIssuer(r.Context(), to, "/web/import", b)
}

func (n *Node) tellIssuer(ctx context.Context, to perigee.NodeID, path string, body []byte) error {
	if to == "" {
		return errors.New("no node with the role issuer is up: start one (`perigee node ls` shows the roles)")
	}
	_, err := call(ctx, n.link.Control(to), path, body)
	return err
}

// challenges returns the open challenges about a host, wherever the order is.
func (n *Node) challenges(ctx context.Context, host string) []acme.Challenge {
	if here := n.issuer.challengesHere(host); len(here) > 0 {
		return here
	}
	for _, b := range n.issuer.ask(ctx, "/web/challenges?host="+url.QueryEscape(host)) {
		var there []acme.Challenge
		if json.Unmarshal(b, &there) == nil && len(there) > 0 {
			return there
		}
	}
	return nil
}

func (s *issuer) challengesHere(host string) []acme.Challenge {
	if c := s.client.Load(); c != nil {
		return c.Challenges(host)
	}
	return nil
}

// known returns what this node knows of its orders.
func (s *issuer) known() map[string]order {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]order, len(s.orders))
	for name, o := range s.orders {
		out[name] = *o
	}
	return out
}

// renewNow orders a certificate anew at once.
func (s *issuer) renewNow(name string) error {
	if s.client.Load() == nil {
		return fmt.Errorf("renew %s: no public CA is configured on %s, which is responsible for it: see acme_email in node.toml", name, s.self())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.orders[name]
	if o == nil {
		return fmt.Errorf("renew %s: no function answers there by a public name: `perigee cert ls` lists those that do", name)
	}
	o.forced = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// importCert shares a certificate that somebody brought.
func (s *issuer) importCert(ctx context.Context, in *CertImport) error {
	c := &acme.Certificate{Chain: in.Chain, Key: in.Key}
	cert, err := c.Parse(in.Host)
	if err != nil {
		return fmt.Errorf("import a certificate for %s: %w", in.Host, err)
	}
	if !time.Now().Before(cert.Leaf.NotAfter) {
		return fmt.Errorf("import a certificate for %s: it ended at %v", in.Host, cert.Leaf.NotAfter)
	}
	if len(s.gossip.View().Desired.FunctionsAt(in.Host)) == 0 {
		return fmt.Errorf("import a certificate for %s: no function answers there: deploy it first", in.Host)
	}
	return s.share(ctx, perigee.WebName{Item: perigee.WebCertificate, Name: in.Host}, cert.Leaf.NotAfter, c)
}

// fetchControl reads what another node answers on the control connection.
func (n *Node) fetchControl(ctx context.Context, from perigee.NodeID, path string) ([]byte, error) {
	resp, err := n.control(ctx, from, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxControlReply))
}
