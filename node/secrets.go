package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

// secrets opens the values of functions' secrets that this node may have. A value was sealed by the
// person who set it to the nodes that the hard rules allowed then. A node that came to be allowed later
// asks another that can open it: that one looks at the asking node's certificate and at the rules that
// hold now, and hands over the key of the envelope, sealed to the asking node. What was handed over is
// kept on disk in that form. Values are in memory only.
//
//	POST /secrets/{function}/{name}/{version}   -> the envelope's key, sealed to the asking node
type secrets struct {
	self    *identity.Node
	gossip  *gossip.Gossip
	control func(perigee.NodeID) http.RoundTripper
	dir     string // of keys that were handed over
	log     *slog.Logger

	mu     sync.Mutex // guards opened
	opened map[secretKey]string
}

type secretKey struct {
	function, name string
	version        uint64
}

const (
	askSecretTime  = 3 * time.Second
	maxWrap        = 1 << 10
	maxSecretFiles = 4096
)

func newSecrets(n *Node) *secrets {
	s := &secrets{
		self: n.m.identity, gossip: n.gossip, control: n.link.Control, dir: n.cfg.Dir.path("secrets"), log: n.log,
		opened: map[secretKey]string{},
	}
	s.leave(n.View().Desired)
	return s
}

// leave forgets the secrets of functions that may not run here any more: the values, and the keys on disk.
func (s *secrets) leave(d *perigee.Desired) {
	outside := func(function string) bool {
		fn := d.Functions[function]
		if fn == nil {
			return false // one that is deployed again finds its keys
		}
		_, ok := placement.Allowed(fn.Policy(), s.self.Claims(), d.Regions)
		return !ok
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.opened, func(k secretKey, _ string) bool { return outside(k.function) })
	files, err := os.ReadDir(s.dir)
	for _, f := range files {
		if function, _, _ := strings.Cut(f.Name(), "."); outside(function) {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, f.Name())))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("delete keys of secrets that a rule excludes from here", "err", err)
	}
}

// sealContext says what the value of a secret is bound to.
func sealContext(cluster perigee.ClusterID, function, name string, version uint64) identity.SealContext {
	return identity.SealContext{Cluster: cluster, Kind: "secret", Name: function + "/" + name, Version: version}
}

// versions tells apart the values that a manifest asks for; "" = it asks for none.
func versions(d *perigee.Desired, m *perigee.Manifest) string {
	var b strings.Builder
	for _, name := range m.Secrets {
		fmt.Fprintf(&b, "%s=", name)
		if e := d.Secrets[m.Name][name]; e != nil {
			fmt.Fprintf(&b, "%d", e.Version)
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// unset lists the secrets of a manifest that have no value.
func unset(d *perigee.Desired, m *perigee.Manifest) (names []string) {
	for _, name := range m.Secrets {
		if d.Secrets[m.Name][name] == nil {
			names = append(names, name)
		}
	}
	return names
}

// env returns the environment of a guest: that of the manifest and the values of its secrets.
func (s *secrets) env(ctx context.Context, m *perigee.Manifest) (map[string]string, error) {
	if len(m.Secrets) == 0 {
		return m.Env, nil
	}
	d := s.gossip.View().Desired
	env := make(map[string]string, len(m.Env)+len(m.Secrets))
	for k, v := range m.Env {
		env[k] = v
	}
	for _, name := range m.Secrets {
		e := d.Secrets[m.Name][name]
		if e == nil {
			return nil, fmt.Errorf("secret %s has no value: set it with `perigee secret set %s %s`", name, m.Name, name)
		}
		v, err := s.open(ctx, m.Name, e)
		if err != nil {
			return nil, err
		}
		env[name] = v
	}
	return env, nil
}

// open returns a value, after asking other nodes for its key if it was not sealed to this one.
func (s *secrets) open(ctx context.Context, function string, e *perigee.Secret) (string, error) {
	key := secretKey{function, e.Name, e.Version}
	s.mu.Lock()
	v, ok := s.opened[key]
	s.mu.Unlock()
	if ok {
		return v, nil
	}
	env, err := s.envelope(ctx, function, e)
	if err != nil {
		return "", fmt.Errorf("secret %s of %s: %w", e.Name, function, err)
	}
	text, err := s.self.Unseal(env, sealContext(s.self.Cluster(), function, e.Name, e.Version))
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.opened {
		if k.function == function && k.name == e.Name {
			delete(s.opened, k) // an older one
		}
	}
	s.opened[key] = string(text)
	return string(text), nil
}

// envelope returns a secret's envelope as this node can open it.
func (s *secrets) envelope(ctx context.Context, function string, e *perigee.Secret) (*identity.Envelope, error) {
	env, err := identity.ParseEnvelope(e.Sealed)
	if err != nil || env.SealedTo(s.self.Claims().ID) {
		return env, err
	}
	file := filepath.Join(s.dir, function+"."+e.Name)
	if b, err := os.ReadFile(file); err == nil {
		if version, wrap, ok := strings.Cut(string(b), "\n"); ok && version == strconv.FormatUint(e.Version, 10) {
			return env.With(identity.Wrap{Node: s.self.Claims().ID, Key: []byte(wrap)}), nil
		}
	}
	wrap, err := s.ask(ctx, function, e, env)
	if err != nil {
		return nil, err
	}
	env = env.With(identity.Wrap{Node: s.self.Claims().ID, Key: wrap})
	if _, err := s.self.Unseal(env, sealContext(s.self.Cluster(), function, e.Name, e.Version)); err != nil {
		return nil, err // the peer lied
	}
	return env, s.keep(file, e.Version, wrap)
}

// keep saves a key that was handed over; another node may be gone when this one starts again.
func (s *secrets) keep(file string, version uint64, wrap []byte) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keep the key of a secret: %w", err)
	}
	if files, err := os.ReadDir(s.dir); err != nil || len(files) >= maxSecretFiles {
		return fmt.Errorf("keep the key of a secret: %d are kept already: %w", len(files), cmp.Or(err, errors.New("that is the limit")))
	}
	content := append([]byte(strconv.FormatUint(version, 10)+"\n"), wrap...)
	tmp := file + ".tmp"
	err := os.WriteFile(tmp, content, 0o600)
	if err == nil {
		err = os.Rename(tmp, file)
	}
	return err
}

// ask has another node hand over the key of an envelope: one that it is sealed to, else any that runs
// the function.
func (s *secrets) ask(ctx context.Context, function string, e *perigee.Secret, env *identity.Envelope) ([]byte, error) {
	v := s.gossip.View()
	var first, rest []perigee.NodeID
	for _, p := range byID(v.Observed.Nodes) {
		switch {
		case p.ID == s.self.Claims().ID || p.State != perigee.NodeAlive && p.State != perigee.NodeSuspect:
		case env.SealedTo(p.ID):
			first = append(first, p.ID)
		case runs(v, function, p):
			rest = append(rest, p.ID)
		}
	}
	errs := []error{errors.New("it was sealed to other nodes, and none that can open it answers: set it again, or start one of them")}
	for _, id := range append(first, rest...) {
		wrap, err := s.askOne(ctx, id, function, e)
		if err == nil {
			return wrap, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", id, err))
	}
	return nil, errors.Join(errs...)
}

func runs(v *perigee.View, function string, p *perigee.Peer) bool {
	fn := v.Desired.Functions[function]
	return fn != nil && (p.Revisions[fn.Live.ID] == perigee.Warm || slices.ContainsFunc(fn.Kept, func(r *perigee.Revision) bool { return p.Revisions[r.ID] == perigee.Warm }))
}

func (s *secrets) askOne(ctx context.Context, id perigee.NodeID, function string, e *perigee.Secret) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askSecretTime)
	defer cancel()
	url := fmt.Sprintf("http://perigee/secrets/%s/%s/%d", function, e.Name, e.Version)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := s.control(id).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(errorText(resp.Body))
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxWrap))
}

// serve hands the key of a secret to a node that may run its function.
func (s *secrets) serve(w http.ResponseWriter, r *http.Request) {
	peer, ok := peerOf(r)
	if !ok {
		http.Error(w, "only nodes may ask for secrets", http.StatusForbidden)
		return
	}
	wrap, err := s.handOver(peer, r.PathValue("function"), r.PathValue("name"), r.PathValue("version"))
	if err != nil {
		s.log.Warn("secret not handed over", "peer", peer.ID, "function", r.PathValue("function"), "err", err)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	w.Write(wrap.Key)
}

func (s *secrets) handOver(peer perigee.NodeClaims, function, name, version string) (none identity.Wrap, err error) {
	v := s.gossip.View()
	fn, e := v.Desired.Functions[function], v.Desired.Secrets[function][name]
	switch {
	case fn == nil || e == nil || strconv.FormatUint(e.Version, 10) != version:
		return none, errors.New("no such function or secret here, or another version of it")
	case v.Desired.Revoked[peer.ID]:
		return none, fmt.Errorf("%s was removed from the cluster", peer.ID)
	}
	if rule, ok := placement.Allowed(fn.Policy(), peer, v.Desired.Regions); !ok {
		return none, fmt.Errorf("%s in %s may not run %s: %s", peer.ID, peer.Region, function, rule)
	}
	p := v.Observed.Nodes[peer.ID]
	if p == nil || len(p.Sealing) == 0 {
		return none, fmt.Errorf("the sealing key of %s is not known here yet", peer.ID)
	}
	env, err := identity.ParseEnvelope(e.Sealed)
	if err != nil {
		return none, err
	}
	if id := s.self.Claims().ID; !env.SealedTo(id) {
		b, err := os.ReadFile(filepath.Join(s.dir, function+"."+name))
		kept, wrap, ok := strings.Cut(string(b), "\n")
		if errors.Is(err, fs.ErrNotExist) || !ok || kept != version {
			return none, identity.ErrNotRecipient
		}
		env = env.With(identity.Wrap{Node: id, Key: []byte(wrap)})
	}
	return s.self.Rewrap(env, sealContext(s.self.Cluster(), function, name, e.Version), identity.Recipient{Node: peer.ID, Key: p.Sealing})
}

// forget drops what belongs to secrets that are gone, or have other values now.
func (s *secrets) forget(d *perigee.Desired) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.opened {
		if e := d.Secrets[k.function][k.name]; e == nil || e.Version != k.version {
			delete(s.opened, k)
		}
	}
}

// secretStatus lists the secrets of a function by name.
func (n *Node) secretStatus(function string) []SecretStatus {
	out := []SecretStatus{}
	d := n.View().Desired
	fn := d.Functions[function]
	for _, e := range d.Secrets[function] {
		s := SecretStatus{Secret: *e, Sealed: []perigee.NodeID{}, Used: fn != nil && slices.Contains(fn.Live.Manifest.Secrets, e.Name)}
		if env, err := identity.ParseEnvelope(e.Sealed); err == nil {
			for _, w := range env.Keys {
				s.Sealed = append(s.Sealed, w.Node)
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b SecretStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// SetSecret gives a secret of a function a value, sealed to the nodes that the policy allows. The nodes'
// places and keys are taken from what they signed themselves, with certificates of the cluster's CA.
func (p *Person) SetSecret(ctx context.Context, function, name string, value []byte, policy *perigee.Policy) (Ack, []perigee.NodeID, error) {
	regions, err := p.Regions(ctx)
	if err != nil {
		return Ack{}, nil, err
	}
	status, err := p.Status(ctx)
	if err != nil {
		return Ack{}, nil, err
	}
	rows, err := p.Rows(ctx)
	if err != nil {
		return Ack{}, nil, err
	}
	to, err := p.recipients(rows, policy, perigee.NewRegions(regions), status.Now.Time())
	if err != nil {
		return Ack{}, nil, err
	}
	hlc := status.Now
	env, err := identity.Seal(value, to, sealContext(p.Cluster, function, name, uint64(hlc)))
	if err != nil {
		return Ack{}, nil, err
	}
	sealed, err := env.Marshal()
	if err != nil {
		return Ack{}, nil, err
	}
	_, b, err := record.Sign(p.Key, p.Cluster, p.Epoch, hlc, nil, &record.Secret{Function: function, Name: name, Sealed: sealed})
	if err != nil {
		return Ack{}, nil, err
	}
	ack, err := p.Submit(ctx, b)
	ids := make([]perigee.NodeID, len(to))
	for i := range to {
		ids[i] = to[i].Node
	}
	return ack, ids, err
}

// recipients returns the nodes that a policy allows, as their own signatures prove.
func (p *Person) recipients(rows [][]byte, policy *perigee.Policy, regions *perigee.Regions, now time.Time) (to []identity.Recipient, err error) {
	for _, raw := range rows {
		signed, row, err := record.DecodeRow(raw)
		if err != nil {
			return nil, err
		}
		claims, leaf, err := identity.VerifyNode(p.Root, p.Cluster, signed.Chain, now)
		if err != nil {
			continue // its certificate ended; it can't serve either
		}
		key, ok := leaf.PublicKey.(ed25519.PublicKey)
		if !ok || signed.VerifyRow(key) != nil || claims.ID != row.Node {
			return nil, fmt.Errorf("the row of %.80q is not signed by it: ask another node", row.Node)
		}
		if _, ok := placement.Allowed(policy, claims, regions); ok && len(row.Sealing) > 0 && len(to) < identity.MaxRecipients {
			to = append(to, identity.Recipient{Node: claims.ID, Key: row.Sealing})
		}
	}
	if len(to) == 0 {
		return nil, errors.New("no node that is up may run the function, so nobody could open the value: start one, or change the placement")
	}
	return to, nil
}

// RemoveSecret takes a secret's value away.
func (p *Person) RemoveSecret(ctx context.Context, function, name string) (Ack, error) {
	return p.write(ctx, nil, &record.Secret{Function: function, Name: name})
}
