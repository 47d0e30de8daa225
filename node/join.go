package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	joinTimeout = time.Minute
	joinTries   = 4
	crowdWait   = time.Second // at most 1.5 times this between tries while the seed is busy
)

// JoinConfig says how a machine becomes a member.
type JoinConfig struct {
	Dir       Dir
	Token     identity.Token
	ID        perigee.NodeID // "" = the cluster chooses
	Socket    net.PacketConn // the mesh socket: the cluster dials back to it
	TCP       net.Listener   // of ListenMeshTCP, where UDP does not get through; nil = UDP only
	Advertise string         // "IP:PORT", ":PORT" or "" = as the cluster sees it
}

// Join redeems a node token and writes the data directory. It starts nothing. The node's key is in
// the directory before the token is used, so that a join that was interrupted can be repeated with
// the same token.
func Join(ctx context.Context, cfg JoinConfig) (perigee.NodeClaims, error) {
	var none perigee.NodeClaims
	if cfg.Token.Kind != record.TokenNode {
		return none, fmt.Errorf("join: this is a %s token, for people: use it with `perigee login`; `perigee token create --region …` makes one for a node", cfg.Token.Kind)
	}
	key, unlock, err := cfg.Dir.reserve()
	if err != nil {
		return none, fmt.Errorf("join: %w", err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	var m *membership
	var reply joinReply
	for { // many machines may join at once: who comes when the seed is busy waits a moment
		m, reply, err = cfg.once(ctx, key)
		if !errors.Is(err, peerlink.ErrBusy) && !errors.Is(err, errSlow) {
			break
		}
		if pause(ctx, crowdWait/2+rand.N(crowdWait)); ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return none, fmt.Errorf("join: %w", err)
	}
	if err := cfg.Dir.saveSeeds(cfg.Socket, reply); err != nil {
		return none, fmt.Errorf("join: %w", err)
	}
	if err := cfg.Dir.found(m); err != nil {
		return none, fmt.Errorf("join: %w", err)
	}
	return m.identity.Claims(), nil
}

// errSlow is returned when packets come through, but answers come too late.
var errSlow = errors.New("packets come through, but answers come too late: this machine or the cluster's node has too much to do")

// once tries to join: with the same key and token it may be tried again.
func (cfg JoinConfig) once(ctx context.Context, key ed25519.PrivateKey) (*membership, joinReply, error) {
	s, err := openJoin(ctx, cfg.Token, func(ctx context.Context, addr string, conf *tls.Config) (*peerlink.Client, error) {
		return peerlink.DialOn(ctx, cfg.Socket, cfg.TCP, addr, conf)
	})
	if err != nil {
		return nil, joinReply{}, err
	}
	defer s.close()
	m, reply, err := s.join(ctx, cfg, key)
	var said *answerError
	if errors.As(err, &said) && said.Deaf && s.client.Probed() {
		err = fmt.Errorf("%w: %w", errSlow, err)
	}
	return m, reply, err
}

// join asks for a name and becomes the node with that name. A name that another machine takes
// meanwhile is replaced, unless it was asked for; an answer that gets lost is asked for again.
func (s *joinSession) join(ctx context.Context, cfg JoinConfig, key ed25519.PrivateKey) (*membership, joinReply, error) {
	pub := key.Public().(ed25519.PublicKey)
	if cfg.Advertise == "" && s.client.OverTCP() {
		local, err := localAddr(cfg.Socket)
		if err != nil {
			return nil, joinReply{}, err
		}
		cfg.Advertise = fmt.Sprintf(":%d", local.Port())
	}
	for try := 1; ; try++ {
		var name nameReply
		var reply joinReply
		err := s.post(ctx, "/name", nameRequest{Token: s.tokenID(), Want: cfg.ID, Public: pub}, &name)
		if err == nil {
			err = s.postSigned(ctx, "/join", cfg.Token.Key(), key, joinRequest{
				Token: s.tokenID(), ID: name.ID, Public: pub, Advertise: cfg.Advertise,
				Redeem: ed25519.Sign(cfg.Token.Key(), record.RedeemMessage(s.genesis.Cluster, pub, name.ID)),
			}, &reply)
		}
		if err == nil {
			m, err := s.membership(key, reply)
			return m, reply, err
		}
		var said *answerError
		if try == joinTries || ctx.Err() != nil || errors.As(err, &said) && (!said.Taken || cfg.ID != "") {
			return nil, reply, err
		}
		if said == nil { // the connection is gone
			if again := s.reconnect(ctx); again != nil {
				return nil, reply, fmt.Errorf("%w (and then: %w)", err, again)
			}
		}
	}
}

// membership checks what came back.
func (s *joinSession) membership(key ed25519.PrivateKey, reply joinReply) (*membership, error) {
	me, err := identity.NewNode(s.genesis.Cluster, s.root, key, reply.Chain)
	if err != nil {
		return nil, fmt.Errorf("the certificate that came back: %w", err)
	}
	m := &membership{identity: me, gossipKey: reply.GossipKey}
	m.begun(s.epoch)
	if len(reply.GossipKey) != gossipKeySize {
		return nil, fmt.Errorf("the gossip key that came back has %d bytes, want %d", len(reply.GossipKey), gossipKeySize)
	}
	if len(reply.Signer) == 0 {
		return m, nil
	}
	if m.signer, err = identity.ParseAuthority(reply.Signer); err != nil {
		return nil, fmt.Errorf("the CA that came back: %w", err)
	}
	if m.web, err = identity.ParseAuthority(reply.Web); err != nil {
		return nil, fmt.Errorf("the web CA that came back: %w", err)
	}
	return m, nil
}

// saveSeeds keeps what the join told, for the first start.
func (d Dir) saveSeeds(socket net.PacketConn, reply joinReply) error {
	advertised, err := netip.ParseAddrPort(reply.Advertise)
	if err != nil {
		return fmt.Errorf("the cluster answered with a bad address: %w", err)
	}
	local, err := localAddr(socket)
	if err != nil {
		return err
	}
	b, err := record.Marshal(seedFile{Advertise: reply.Advertise, Local: local.Port(), Own: isOwn(advertised.Addr()), Seeds: reply.Seeds})
	if err != nil {
		return err
	}
	return writeFile(d.path(fileSeeds), withSum(b))
}

// reserve makes the directory this process's own and returns the key of the node that it is to hold:
// that of a join which was interrupted, if there is one.
func (d Dir) reserve() (key ed25519.PrivateKey, unlock func(), err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, nil, err
	}
	if unlock, err = lock(d.path(fileLock)); err != nil {
		return nil, nil, err
	}
	if key, err = d.joinKey(); err != nil {
		unlock()
		return nil, nil, err
	}
	return key, unlock, nil
}

func (d Dir) joinKey() (ed25519.PrivateKey, error) {
	if d.Member() {
		return nil, d.errMember()
	}
	key, err := identity.LoadKey(d.path(fileKey))
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if key, err = identity.NewKey(); err != nil {
		return nil, err
	}
	return key, identity.SaveKey(d.path(fileKey), key)
}
