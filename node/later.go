package node

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

// laterEpoch asks the node at an address in which epoch its cluster lives, and returns that if it comes after
// the one which a known genesis record began, by the word of an operator whom the caller trusts. The node must
// show that it is of that epoch itself.
func laterEpoch(ctx context.Context, addr string, known perigee.Digest, trusted func(ed25519.PublicKey) bool) (e record.Epoch, err error) {
	var shown *x509.Certificate
	c, err := peerlink.Dial(ctx, addr, identity.JoinClientTLS(peerlink.ALPNJoin, func(root *x509.Certificate) error {
		shown = root
		return nil
	}))
	if err != nil {
		return e, err
	}
	s := &joinSession{client: c, addr: addr}
	defer s.close()
	b, err := s.get(ctx, "/genesis")
	if err != nil {
		return e, err
	}
	epochs, err := record.OpenGenesis(b)
	if err != nil {
		return e, err
	}
	now := epochs[len(epochs)-1]
	before := slices.IndexFunc(epochs, func(e record.Epoch) bool { return e.ID == known })
	switch {
	case before < 0 || before == len(epochs)-1:
		return e, fmt.Errorf("it is of cluster %s, and its epoch does not follow the one that is known", now.Genesis.Cluster)
	case !trusted(now.Genesis.Operator):
		return e, fmt.Errorf("its epoch was begun by key %s, which is no operator's that is known", record.KeyIDOf(now.Genesis.Operator))
	case shown == nil || !slices.Equal(shown.Raw, now.Genesis.Root):
		return e, errors.New("its certificate is not of the epoch that it shows")
	}
	return now, nil
}

// Follow returns the genesis record of the epoch in which the cluster of a genesis record lives now, after it was
// restored from a backup by the same operator: whom the known record names.
func Follow(ctx context.Context, addrs []string, genesis []byte) ([]byte, error) {
	epochs, err := record.OpenGenesis(genesis)
	if err != nil {
		return nil, err
	}
	known := epochs[len(epochs)-1]
	errs := []error{fmt.Errorf("no node of cluster %s answers in epoch %d, or in a later one that its operator began: log in again if another did", known.Genesis.Cluster, known.Number)}
	for _, addr := range addrs {
		actx, cancel := context.WithTimeout(ctx, dialTime)
		e, err := laterEpoch(actx, addr, known.ID, func(key ed25519.PublicKey) bool { return key.Equal(known.Genesis.Operator) })
		cancel()
		if err == nil {
			return e.Raw, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(errs...)
}
