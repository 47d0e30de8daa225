package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/backup"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
	"github.com/perigee-edge/perigee/placement"
)

// RestoreConfig says of what, and as what, a cluster is made again.
type RestoreConfig struct {
	FoundConfig                    // of the first node; the domain stays that of the cluster
	Operator    ed25519.PrivateKey // an operator's key that was in force when the backup was made
	Backup      io.ReadSeeker      // is read twice: verified, then used
}

// Restored is a cluster in a new epoch.
type Restored struct {
	*Founded
	Backup *Backup
	// Missing are the live functions without a bundle here: the backup has none, or a rule keeps them from this
	// node. They run again once they are deployed again.
	Missing []string
	Unset   []string // secrets of live functions, as <function>/<name>, that need a value again
}

// Restore makes the cluster of a backup again, in a new epoch, with one node, this directory's, and starts
// nothing. The epoch has CAs and a gossip key of its own: no node of an earlier one is a member of it, and
// what was sealed to those nodes stays behind. People's keys, and what they signed, stay good.
func Restore(ctx context.Context, cfg RestoreConfig) (*Restored, error) {
	b, err := ReadBackup(cfg.Backup)
	if err != nil {
		return nil, err
	}
	id := record.KeyIDOf(cfg.Operator.Public().(ed25519.PublicKey))
	if p, ok := b.past.Person(id); !ok || p.Role != record.TokenOperator {
		return nil, fmt.Errorf("key %s is no operator's of cluster %s, or was revoked before the backup: give the operator.key of that cluster with --key", id, b.Cluster)
	}
	if b.Epoch == math.MaxUint32 {
		return nil, errors.New("the cluster has no epochs left")
	}
	past := b.past.Desired()
	cfg.Domain = past.Domain
	out := &Restored{Backup: b, Missing: []string{}, Unset: []string{}}
	c := newborn{id: b.Cluster, epoch: b.Epoch + 1, before: b.genesis, until: b.past.Until(), operator: cfg.Operator}
	out.Founded, err = cfg.bear(&c, past.Regions, time.Now(), func(c *newborn) error { return cfg.fill(ctx, c, out) })
	return out, err
}

// fill writes the state, and the bundles that the node may hold.
func (cfg RestoreConfig) fill(ctx context.Context, c *newborn, out *Restored) error {
	now, err := out.Backup.past.Continue(c.first.genesisRecord, vfs.OS{}, cfg.Dir.path("state"), c.first.identity.Key())
	if err != nil {
		return err
	}
	wanted := map[perigee.Digest]bool{}
	for _, fn := range byName(now.Functions) {
		if _, ok := placement.Allowed(fn.Policy(), c.first.identity.Claims(), now.Regions); !ok {
			continue
		}
		for _, rev := range append([]*perigee.Revision{fn.Live}, fn.Kept...) {
			wanted[rev.Bundle] = true
		}
	}
	store, err := bundle.OpenStore(vfs.OS{}, cfg.Dir.path("bundles"))
	if err != nil {
		return err
	}
	if _, err := cfg.Backup.Seek(0, io.SeekStart); err != nil {
		return err
	}
	err = backup.Read(cfg.Backup, backup.Handler{
		Head:   out.Backup.head,
		Record: func([]byte) error { return nil },
		Bundle: func(d perigee.Digest, size int64, r io.Reader) error {
			if !wanted[d] {
				return nil
			}
			return store.Put(ctx, d, size, r)
		},
	})
	if err != nil {
		return err
	}
	for _, fn := range byName(now.Functions) {
		if !store.Has(fn.Live.Bundle) {
			out.Missing = append(out.Missing, fn.Name)
		}
		for _, name := range unset(now, &fn.Live.Manifest) {
			out.Unset = append(out.Unset, fn.Name+"/"+name)
		}
	}
	return nil
}
