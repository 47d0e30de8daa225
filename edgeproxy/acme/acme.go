// Package acme gets web certificates from a public CA by ACME (RFC 8555). It makes an account, carries out
// one order at a time for each name, and holds the challenges of the orders under way, so that whoever
// asks a node of the cluster for one can be answered. It does not decide when a certificate is wanted,
// keep it, or renew it. It starts no goroutine.
package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	rfc8555 "github.com/mholt/acmez/v3/acme"
)

// Protocol is what a CA that validates by tls-alpn-01 (RFC 8737) offers in its handshake, and nothing else.
const Protocol = acmez.ACMETLS1Protocol

// Config names the CA. It is not changed after New. All of it but the last two lines can be handed on to
// another issuer; it is a secret then.
type Config struct {
	Directory string `json:"directory"`       // URL; required
	Email     string `json:"email,omitempty"` // where the CA writes to; "" = nowhere
	EABKey    string `json:"-"`               // id of the key of an account that the CA knows already; "" = none
	EABMAC    string `json:"-"`               // that key, base64url; needed once
	Roots     []byte `json:"roots,omitempty"` // PEM of what the CA's own certificate leads to; nil = the system's
	DNS       *DNS   `json:"dns,omitempty"`   // nil = no dns-01, and no wildcards

	Agent  string       `json:"-"` // names this program to the CA
	Logger *slog.Logger `json:"-"` // nil = slog.Default()
}

// Client orders from one CA. It is safe for concurrent use.
type Client struct {
	cfg   Config
	proto acmez.Client

	mu   sync.Mutex // guards open
	open map[string][]Challenge
}

// Config returns what the client was made with.
func (c *Client) Config() Config { return c.cfg }

// Challenge is a CA's question about a host, with its answer.
type Challenge struct {
	Type     string `json:"type"` // "http-01" or "tls-alpn-01"
	Host     string `json:"host"`
	Token    string `json:"token"`
	KeyProof string `json:"proof"` // the key authorization
}

// The challenges that any node answers.
const (
	TypeHTTP = rfc8555.ChallengeTypeHTTP01
	TypeTLS  = rfc8555.ChallengeTypeTLSALPN01
)

// httpTimeout is for one request to the CA.
const httpTimeout = 30 * time.Second

// New makes a client. Nothing is asked yet.
func New(cfg Config) (*Client, error) {
	if cfg.Directory == "" {
		return nil, errors.New("acme: the URL of the CA's directory is missing")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var roots *x509.CertPool
	if cfg.Roots != nil {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(cfg.Roots) {
			return nil, errors.New("acme: the file of the CA's roots has no certificate")
		}
	}
	c := &Client{cfg: cfg, open: map[string][]Challenge{}}
	c.proto.Client = &rfc8555.Client{
		Directory: cfg.Directory, UserAgent: cfg.Agent, PollTimeout: time.Minute,
		HTTPClient: &http.Client{Timeout: httpTimeout, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots}, IdleConnTimeout: time.Minute,
		}},
	}
	c.proto.ChallengeSolvers = map[string]acmez.Solver{TypeHTTP: solver{c}, TypeTLS: solver{c}}
	if cfg.DNS != nil {
		c.proto.ChallengeSolvers = map[string]acmez.Solver{rfc8555.ChallengeTypeDNS01: cfg.DNS.solver()}
	}
	return c, nil
}

// Account is what orders are made with. It is a secret.
type Account struct {
	URL  string `json:"url"`
	Key  []byte `json:"key"`            // PKCS #8
	Next []byte `json:"next,omitempty"` // PKCS #8; a key that the CA may have been told of instead
	CA   Config `json:"ca"`             // what it is an account of
}

// Register makes a new account with the CA.
func (c *Client) Register(ctx context.Context) (*Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := rfc8555.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if c.cfg.Email != "" {
		a.Contact = []string{"mailto:" + c.cfg.Email}
	}
	if c.cfg.EABKey != "" {
		if err := a.SetExternalAccountBinding(ctx, c.proto.Client, rfc8555.EAB{KeyID: c.cfg.EABKey, MACKey: c.cfg.EABMAC}); err != nil {
			return nil, fmt.Errorf("bind the new account at %s to key %s: %w", c.cfg.Directory, c.cfg.EABKey, err)
		}
	}
	if a, err = c.proto.NewAccount(ctx, a); err != nil {
		return nil, fmt.Errorf("make an account at %s: %w", c.cfg.Directory, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &Account{URL: a.Location, Key: der, CA: c.cfg}, err
}

// WithNext returns the account with a new key to change to, which is to be kept before ChangeKey.
func (a *Account) WithNext() (*Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	next := *a
	next.Next, err = x509.MarshalPKCS8PrivateKey(key)
	return &next, err
}

// ErrAccountLost is a CA's answer that the account has neither of its keys, or can't have another.
var ErrAccountLost = errors.New("the account can't be used any more")

// ChangeKey has the CA know the account by its next key and no other (RFC 8555, section 7.3.5), also if it was told so
// before. The errors are ErrAccountLost and those that may pass.
func (c *Client) ChangeKey(ctx context.Context, a *Account) (*Account, error) {
	account, err := a.open(a.Key)
	if err != nil {
		return nil, err
	}
	next, err := a.open(a.Next)
	if err != nil {
		return nil, err
	}
	changed := &Account{URL: a.URL, Key: a.Next, CA: a.CA}
	_, err = c.proto.AccountKeyRollover(ctx, account, next.PrivateKey)
	if err == nil {
		return changed, nil
	}
	known, lookup := c.proto.GetAccount(ctx, rfc8555.Account{PrivateKey: next.PrivateKey})
	if lookup == nil && known.Location == a.URL {
		return changed, nil // told by somebody who could not say so any more
	}
	err = fmt.Errorf("change the key of account %s: %w", a.URL, err)
	var unknown rfc8555.Problem
	if Refused(err) && errors.As(lookup, &unknown) && unknown.Type == rfc8555.ProblemTypeAccountDoesNotExist {
		return nil, fmt.Errorf("%w: %w", ErrAccountLost, err)
	}
	return nil, err
}

// Refused reports whether an error is a CA's answer that it does not do this, or not with this account's key.
func Refused(err error) bool {
	var p rfc8555.Problem
	return errors.As(err, &p) && (p.Status == http.StatusNotImplemented ||
		slices.Contains([]string{rfc8555.ProblemTypeAccountDoesNotExist, rfc8555.ProblemTypeUnauthorized, rfc8555.ProblemTypeMalformed}, p.Type))
}

// open returns the account with one of its keys.
func (a *Account) open(der []byte) (rfc8555.Account, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return rfc8555.Account{}, fmt.Errorf("key of account %s: %w", a.URL, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return rfc8555.Account{}, fmt.Errorf("key of account %s is a %T", a.URL, key)
	}
	return rfc8555.Account{Status: rfc8555.StatusValid, Location: a.URL, PrivateKey: signer}, nil
}

// Certificate is a chain and its key, as PEM. It is a secret.
type Certificate struct {
	Chain []byte `json:"chain"`
	Key   []byte `json:"key"`
	From  string `json:"from,omitempty"` // URL of the directory of the CA that it was ordered from; "" = it was not
}

// Parse checks that key and chain belong together and are for a name, which may be a wildcard.
func (c *Certificate) Parse(name string) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(c.Chain, c.Key)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(cert.Leaf.DNSNames, name) {
		if err := cert.Leaf.VerifyHostname(name); err != nil {
			return nil, err
		}
	}
	return &cert, nil
}

// Order gets a certificate for a name. replaces is the one before it, if this CA issued one: another would refuse.
func (c *Client) Order(ctx context.Context, a *Account, name string, replaces *x509.Certificate) (*Certificate, error) {
	account, err := a.open(a.Key)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := acmez.NewCSR(key, []string{name})
	if err != nil {
		return nil, err
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, err
	}
	params.Replaces = replaces
	chains, err := c.proto.ObtainCertificate(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("order a certificate for %s at %s: %w", name, c.cfg.Directory, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	got := &Certificate{Chain: chains[0].ChainPEM, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), From: c.cfg.Directory}
	_, err = got.Parse(name)
	return got, err
}

// RenewAt asks the CA when a certificate should be replaced (RFC 9773), and when to ask again. A CA that
// does not say leaves it at the last third of the certificate's life.
func (c *Client) RenewAt(ctx context.Context, leaf *x509.Certificate) (at, again time.Time) {
	info, err := c.proto.GetRenewalInfo(ctx, leaf)
	if err != nil || info.SelectedTime.IsZero() {
		return LastThird(leaf), time.Now().Add(askAgain)
	}
	again = time.Now().Add(askAgain)
	if info.RetryAfter != nil {
		again = *info.RetryAfter
	}
	return info.SelectedTime, again
}

const askAgain = 6 * time.Hour

// LastThird returns when two thirds of a certificate's life are over.
func LastThird(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// Challenges returns the questions about a host that are open.
func (c *Client) Challenges(host string) []Challenge {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.open[host])
}

// solver keeps the challenges of orders.
type solver struct{ c *Client }

// Present notes a challenge before the CA is told that it may ask.
func (s solver) Present(_ context.Context, ch rfc8555.Challenge) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	host := ch.Identifier.Value
	s.c.open[host] = append(s.c.open[host], Challenge{ch.Type, host, ch.Token, ch.KeyAuthorization})
	return nil
}

// CleanUp forgets it.
func (s solver) CleanUp(_ context.Context, ch rfc8555.Challenge) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	host := ch.Identifier.Value
	s.c.open[host] = slices.DeleteFunc(s.c.open[host], func(o Challenge) bool { return o.Type == ch.Type && o.Token == ch.Token })
	if len(s.c.open[host]) == 0 {
		delete(s.c.open, host)
	}
	return nil
}

// HandshakeCert is the certificate that answers a tls-alpn-01 challenge.
func (ch Challenge) HandshakeCert() (*tls.Certificate, error) {
	return acmez.TLSALPN01ChallengeCert(rfc8555.Challenge{
		Type: ch.Type, Token: ch.Token, KeyAuthorization: ch.KeyProof, Identifier: rfc8555.Identifier{Type: "dns", Value: ch.Host},
	})
}

// Pack encodes an account or a certificate, to be sealed.
func Pack(v any) ([]byte, error) { return json.Marshal(v) }

// Unpack decodes what Pack made.
func Unpack(b []byte, v any) error { return json.Unmarshal(b, v) }
