package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	connectTimeout = 8 * time.Second // for one address
	maxJoinBody    = 256 << 10
)

// joinSession is a connection to a node of the cluster that a token names, or, without a token, of
// the cluster whose root is known.
type joinSession struct {
	token   identity.Token
	dial    dialFunc
	addr    string // of the node that is connected
	client  *peerlink.Client
	epoch   record.Epoch // of the cluster, the present one
	genesis *record.Genesis
	root    *x509.Certificate
}

type dialFunc func(ctx context.Context, addr string, conf *tls.Config) (*peerlink.Client, error)

// answerError is what the other side said, as opposed to a failure to hear it.
type answerError struct{ joinError }

func (e *answerError) Error() string { return e.joinError.Error }

// openJoin tries the token's addresses in turn until one is a node of the token's cluster.
func openJoin(ctx context.Context, token identity.Token, dial dialFunc) (*joinSession, error) {
	var errs []error
	for _, addr := range token.Addrs {
		s := &joinSession{token: token, dial: dial}
		if err := s.connect(ctx, addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			continue
		}
		return s, nil
	}
	if len(errs) == 0 {
		return nil, errors.New("the token has no address in it: create another")
	}
	return nil, errors.Join(errs...)
}

// openRenewal connects to a node of a cluster whose root is known.
func openRenewal(ctx context.Context, root *x509.Certificate, addr string) (*joinSession, error) {
	c, err := peerlink.Dial(ctx, addr, identity.JoinClientTLS(peerlink.ALPNJoin, func(shown *x509.Certificate) error {
		if !shown.Equal(root) {
			return identity.ErrOtherCA
		}
		return nil
	}))
	if err != nil {
		return nil, err
	}
	return &joinSession{client: c, addr: addr, root: root}, nil
}

// connect dials addr and requires that it shows the genesis whose digest is in the token and a
// certificate that chains to that genesis. Nothing of the token is sent before.
func (s *joinSession) connect(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var shown *x509.Certificate
	c, err := s.dial(ctx, addr, identity.JoinClientTLS(peerlink.ALPNJoin, func(root *x509.Certificate) error {
		shown = root
		return nil
	}))
	if err != nil {
		return fmt.Errorf("no answer on its mesh port: check the address and that a firewall lets UDP through, or TCP on the same port: %w", err)
	}
	s.client, s.addr = c, addr
	b, err := s.get(ctx, "/genesis")
	if err == nil {
		err = s.check(b, shown)
	}
	if err != nil {
		c.Close()
	}
	if errors.Is(err, context.DeadlineExceeded) { // it is there
		err = fmt.Errorf("%w: %w", errSlow, err)
	}
	return err
}

// reconnect connects again where it was, after a connection was lost.
func (s *joinSession) reconnect(ctx context.Context) error {
	s.client.Close()
	return s.connect(ctx, s.addr)
}

func (s *joinSession) check(b []byte, shown *x509.Certificate) error {
	epochs, err := record.OpenGenesis(b)
	if err != nil {
		return err
	}
	now := epochs[len(epochs)-1]
	g := now.Genesis
	if now.ID != s.token.Genesis {
		return fmt.Errorf("this node belongs to another cluster (%s) than the token: check the address, or create a token there", g.Cluster)
	}
	if shown == nil || !bytes.Equal(shown.Raw, g.Root) {
		return errors.New("this node's certificate is not of the token's cluster: somebody may be in between")
	}
	s.epoch, s.genesis, s.root = now, g, shown
	return nil
}

func (s *joinSession) tokenID() perigee.KeyID {
	return record.KeyIDOf(s.token.Key().Public().(ed25519.PublicKey))
}

func (s *joinSession) close() { s.client.Close() }

func (s *joinSession) get(ctx context.Context, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://perigee"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxJoinBody))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answered %s with %s", path, resp.Status)
	}
	return b, err
}

// postSigned sends body with proofs of one or two keys (owner may be nil) that are bound to the
// connection.
func (s *joinSession) postSigned(ctx context.Context, path string, key, owner ed25519.PrivateKey, body, reply any) error {
	b, err := record.Marshal(body)
	if err != nil {
		return err
	}
	err = s.sendSigned(ctx, path, key, owner, b, reply)
	var said *answerError
	if !errors.As(err, &said) || said.Dial == "" {
		return err
	}
	// Only the node that a token names may redeem it; the proofs are bound to a connection, so that
	// nobody in between can relay them, and the next ones go over a connection of its own.
	s.client.Close()
	if err := s.connect(ctx, said.Dial); err != nil {
		return fmt.Errorf("the token is redeemed at %s: %w", said.Dial, err)
	}
	return s.sendSigned(ctx, path, key, owner, b, reply)
}

func (s *joinSession) sendSigned(ctx context.Context, path string, key, owner ed25519.PrivateKey, body []byte, reply any) (err error) {
	env := signed{Body: body}
	if env.Proof, err = identity.JoinProof(key, s.client.TLS(), body); err != nil {
		return err
	}
	if owner != nil {
		if env.Owner, err = identity.JoinProof(owner, s.client.TLS(), body); err != nil {
			return err
		}
	}
	return s.post(ctx, path, env, reply)
}

// post posts one request. What the other side refuses is an *answerError.
func (s *joinSession) post(ctx context.Context, path string, body, reply any) error {
	b, err := record.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://perigee"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := s.client.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(io.LimitReader(resp.Body, maxJoinBody)); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return record.Unmarshal(b, reply)
	}
	var e joinError
	if err := record.Unmarshal(b, &e); err != nil || e.Error == "" {
		e.Error = "the cluster answered " + resp.Status
	}
	return &answerError{e}
}
