package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

// LoggedIn is what a person got for a token.
type LoggedIn struct {
	Cluster perigee.ClusterID
	Genesis []byte // the record
	Key     ed25519.PrivateKey
	ID      perigee.KeyID
	Role    record.TokenKind
	Addrs   []string
}

// Login redeems a deploy or operator token for a new key.
func Login(ctx context.Context, token identity.Token) (*LoggedIn, error) {
	if token.Kind == record.TokenNode {
		return nil, errors.New("login: this token is for a node: use it with `perigee node run --join`; `perigee token create --role deploy` makes one for people")
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	s, err := openJoin(ctx, token, peerlink.Dial)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	defer s.close()
	key, err := identity.NewKey()
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	reply, err := s.login(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	return &LoggedIn{Cluster: s.genesis.Cluster, Genesis: s.epoch.Raw, Key: key, ID: reply.Key, Role: token.Kind, Addrs: reply.Addrs}, nil
}

// login makes key one of the cluster's. An answer that gets lost is asked for again.
func (s *joinSession) login(ctx context.Context, key ed25519.PrivateKey) (reply loginReply, err error) {
	pub := key.Public().(ed25519.PublicKey)
	req := loginRequest{
		Token: s.tokenID(), Public: pub,
		Redeem: ed25519.Sign(s.token.Key(), record.RedeemMessage(s.genesis.Cluster, pub, "")),
	}
	for try := 1; ; try++ {
		err = s.postSigned(ctx, "/login", s.token.Key(), key, req, &reply)
		var said *answerError
		if err == nil || try == joinTries || ctx.Err() != nil || errors.As(err, &said) {
			return reply, err
		}
		if again := s.reconnect(ctx); again != nil {
			return reply, fmt.Errorf("%w (and then: %w)", err, again)
		}
	}
}
