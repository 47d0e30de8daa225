// Package acmetest has what tests of certificates talk to: a CA that speaks as much of ACME (RFC 8555) as a client needs, and a
// DNS zone that takes signed updates (RFC 2136, RFC 8945). Both live in the test's process, on loopback. The CA checks every
// signature against the account's key; it rejects no nonces and has no limits: Pebble does (make test-acme).
package acmetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"
)

// CA signs for whoever answers its challenges. Its fields are set before the first request.
type CA struct {
	Types []string                             // of the challenges it offers; default http-01 and tls-alpn-01
	Ask   func(name, kind, token string) error // validates a challenge; nil = all are answered right
	Edit  func(*x509.Certificate)              // changes what is about to be signed; may be nil
	Key   func(asked any) (certified any)      // replaces the key that is certified; nil = the one asked for
	t     testing.TB
	http  *httptest.Server
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey

	mu       sync.Mutex                  // guards the rest
	accounts map[string]*ecdsa.PublicKey // by URL
	orders   []*order
}

type order struct {
	account, name, status string
	replaces              bool
	chain                 []byte
	problem               string
}

// NewCA starts a CA, which ends with the test.
func NewCA(t testing.TB) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := &CA{Types: []string{"http-01", "tls-alpn-01"}, t: t, key: key, accounts: map[string]*ecdsa.PublicKey{}}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.http = httptest.NewServer(ca)
	t.Cleanup(ca.http.Close)
	return ca
}

// Directory is the URL that a client is told.
func (ca *CA) Directory() string { return ca.http.URL + "/dir" }

// Orders returns how many orders there were for a name.
func (ca *CA) Orders(name string) (n int) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	for _, o := range ca.orders {
		if o.name == name {
			n++
		}
	}
	return n
}

// Replaced returns how many of them named the certificate that they were to replace.
func (ca *CA) Replaced(name string) (n int) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	for _, o := range ca.orders {
		if o.name == name && o.replaces {
			n++
		}
	}
	return n
}

// ServeHTTP implements http.Handler.
func (ca *CA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Replay-Nonce", rand.Text())
	at := func(p string) string { return ca.http.URL + p }
	switch r.URL.Path {
	case "/dir":
		answer(w, http.StatusOK, map[string]string{"newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order"), "keyChange": at("/key")})
		return
	case "/nonce":
		return
	}
	var m message
	var from string
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&m)
	if err == nil {
		from, err = ca.author(&m, at(""))
	}
	if err != nil {
		kind := "unauthorized"
		if errors.Is(err, errNoAccount) {
			kind = "accountDoesNotExist"
		}
		problem(w, http.StatusForbidden, kind, err)
		return
	}
	what, rest := path.Split(r.URL.Path)
	switch {
	case r.URL.Path == "/account":
		w.Header().Set("Location", from)
		answer(w, http.StatusCreated, map[string]string{"status": "valid"})
	case r.URL.Path == "/key":
		if err = ca.changeKey(from, m.payload); err == nil {
			answer(w, http.StatusOK, map[string]string{"status": "valid"})
		}
	case r.URL.Path == "/order":
		err = ca.newOrder(w, from, m.payload)
	default:
		err = ca.aboutOrder(w, strings.Trim(what, "/"), rest, from, m.payload)
	}
	if err != nil {
		problem(w, http.StatusForbidden, "unauthorized", err)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	send(w, status, "application/json", v)
}

func send(w http.ResponseWriter, status int, kind string, v any) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that is gone
}

func problem(w http.ResponseWriter, status int, kind string, err error) {
	send(w, status, "application/problem+json", map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "status": status, "detail": err.Error()})
}

// message is a JSON web signature (RFC 7515).
type message struct {
	Protected, Payload, Signature string
	payload                       []byte
}

type header struct {
	KID string
	JWK *struct{ X, Y string }
}

// author checks a message's signature, and returns the account's URL. A key that comes for the first time makes an account,
// unless the client wants none.
func (ca *CA) author(m *message, base string) (url string, err error) {
	head, err := m.open()
	if err != nil {
		return "", err
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if head.JWK == nil {
		key := ca.accounts[head.KID]
		if key == nil {
			return "", fmt.Errorf("%w: %s", errNoAccount, head.KID)
		}
		return head.KID, m.verify(key)
	}
	key, err := head.key()
	if err != nil {
		return "", err
	}
	for url, has := range ca.accounts {
		if has.Equal(key) {
			return url, m.verify(key)
		}
	}
	var in struct{ OnlyReturnExisting bool }
	if err := json.Unmarshal(m.payload, &in); err != nil || in.OnlyReturnExisting {
		return "", fmt.Errorf("%w with this key (%v)", errNoAccount, err)
	}
	url = fmt.Sprintf("%s/account/%d", base, len(ca.accounts))
	ca.accounts[url] = key
	return url, m.verify(key)
}

var errNoAccount = errors.New("there is no such account")

// changeKey gives an account the key that signs the message within (RFC 8555, section 7.3.5).
func (ca *CA) changeKey(account string, payload []byte) error {
	var m message
	if err := json.Unmarshal(payload, &m); err != nil {
		return err
	}
	head, err := m.open()
	if err != nil || head.JWK == nil {
		return fmt.Errorf("a message within that has no key (%v)", err)
	}
	key, err := head.key()
	if err == nil {
		err = m.verify(key)
	}
	if err != nil {
		return err
	}
	var in struct {
		Account string
		OldKey  struct{ X, Y string }
	}
	if err := json.Unmarshal(m.payload, &in); err != nil {
		return err
	}
	old, err := header{JWK: &in.OldKey}.key()
	if err != nil {
		return err
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if in.Account != account || !ca.accounts[account].Equal(old) {
		return fmt.Errorf("account %s does not have the key that is to be replaced", in.Account)
	}
	ca.accounts[account] = key
	return nil
}

// Accounts returns how many were made.
func (ca *CA) Accounts() int {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return len(ca.accounts)
}

func (m *message) open() (head header, err error) {
	b, err := base64.RawURLEncoding.DecodeString(m.Protected)
	if err == nil {
		err = json.Unmarshal(b, &head)
	}
	if err == nil {
		m.payload, err = base64.RawURLEncoding.DecodeString(m.Payload)
	}
	return head, err
}

func (h header) key() (*ecdsa.PublicKey, error) {
	x, err1 := base64.RawURLEncoding.DecodeString(h.JWK.X)
	y, err2 := base64.RawURLEncoding.DecodeString(h.JWK.Y)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
}

func (m *message) verify(key *ecdsa.PublicKey) error {
	sig, err := base64.RawURLEncoding.DecodeString(m.Signature)
	if err != nil || len(sig) != 64 {
		return errors.New("no ES256 signature")
	}
	sum := sha256.Sum256([]byte(m.Protected + "." + m.Payload))
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return errors.New("the signature is not of the account's key")
	}
	return nil
}

func (ca *CA) newOrder(w http.ResponseWriter, account string, payload []byte) error {
	var in struct {
		Identifiers []struct{ Value string }
		Replaces    string // RFC 9773, section 5
	}
	if err := json.Unmarshal(payload, &in); err != nil || len(in.Identifiers) != 1 {
		return errors.New("an order has one name here")
	}
	issuer, _, _ := strings.Cut(in.Replaces, ".")
	if in.Replaces != "" && issuer != base64.RawURLEncoding.EncodeToString(ca.cert.SubjectKeyId) {
		return fmt.Errorf("%s, which is to be replaced, is of another CA", in.Replaces)
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	o := &order{account: account, name: in.Identifiers[0].Value, status: "pending", replaces: in.Replaces != ""}
	ca.orders = append(ca.orders, o)
	n := len(ca.orders) - 1
	w.Header().Set("Location", fmt.Sprintf("%s/order/%d", ca.http.URL, n))
	answer(w, http.StatusCreated, ca.shown(n))
	return nil
}

// shown is an order as its account sees it. ca.mu is held.
func (ca *CA) shown(n int) map[string]any {
	at := func(what string) string { return fmt.Sprintf("%s/%s/%d", ca.http.URL, what, n) }
	o := ca.orders[n]
	return map[string]any{
		"status": o.status, "identifiers": []any{map[string]string{"type": "dns", "value": o.name}},
		"authorizations": []string{at("authz")}, "finalize": at("finalize"), "certificate": at("chain"),
	}
}

// aboutOrder serves what belongs to one order.
func (ca *CA) aboutOrder(w http.ResponseWriter, what, number, account string, payload []byte) error {
	var n int
	_, err := fmt.Sscan(number, &n)
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if err != nil || n >= len(ca.orders) || ca.orders[n].account != account {
		return fmt.Errorf("no %s %s of this account", what, number)
	}
	o := ca.orders[n]
	kind, isChallenge := strings.CutPrefix(what, "challenge/")
	switch {
	case what == "authz":
		answer(w, http.StatusOK, ca.authz(n))
	case isChallenge:
		ca.validate(o, kind, fmt.Sprintf("token-%d", n))
		answer(w, http.StatusOK, map[string]any{"type": kind, "status": "processing"})
	case what == "finalize":
		if err := ca.sign(o, payload); err != nil {
			return err
		}
		answer(w, http.StatusOK, ca.shown(n))
	case what == "chain":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(o.chain)
	default:
		answer(w, http.StatusOK, ca.shown(n))
	}
	return nil
}

func (ca *CA) authz(n int) map[string]any {
	o := ca.orders[n]
	status := map[string]string{"pending": "pending", "ready": "valid", "valid": "valid", "invalid": "invalid"}[o.status]
	list := []any{}
	for _, kind := range ca.Types {
		c := map[string]any{"type": kind, "url": fmt.Sprintf("%s/challenge/%s/%d", ca.http.URL, kind, n), "status": status, "token": fmt.Sprintf("token-%d", n)}
		if o.problem != "" {
			c["error"] = map[string]any{"type": "urn:ietf:params:acme:error:unauthorized", "detail": o.problem, "status": http.StatusForbidden}
		}
		list = append(list, c)
	}
	return map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": strings.TrimPrefix(o.name, "*.")}, "challenges": list, "wildcard": strings.HasPrefix(o.name, "*.")}
}

// validate asks in the background, as CAs do. ca.mu is held, and not while it asks.
func (ca *CA) validate(o *order, kind, token string) {
	if o.status != "pending" {
		return
	}
	go func() {
		var err error
		if ca.Ask != nil {
			err = ca.Ask(strings.TrimPrefix(o.name, "*."), kind, token)
		}
		ca.mu.Lock()
		defer ca.mu.Unlock()
		if o.status = "ready"; err != nil {
			o.status, o.problem = "invalid", err.Error()
		}
	}()
}

func (ca *CA) sign(o *order, payload []byte) error {
	var in struct{ CSR string }
	if err := json.Unmarshal(payload, &in); err != nil {
		return err
	}
	der, err := base64.RawURLEncoding.DecodeString(in.CSR)
	if err != nil {
		return err
	}
	csr, err := x509.ParseCertificateRequest(der)
	switch {
	case err != nil:
		return err
	case o.status != "ready":
		return fmt.Errorf("the order is %s", o.status)
	case len(csr.DNSNames) != 1 || csr.DNSNames[0] != o.name:
		return fmt.Errorf("%v was ordered as %s", csr.DNSNames, o.name)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: serial, DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour)}
	if ca.Edit != nil {
		ca.Edit(leaf)
	}
	key := csr.PublicKey
	if ca.Key != nil {
		key = ca.Key(key)
	}
	if der, err = x509.CreateCertificate(rand.Reader, leaf, ca.cert, key, ca.key); err != nil {
		return err
	}
	o.chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})...)
	o.status = "valid"
	return nil
}
