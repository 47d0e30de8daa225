package gossip

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// Records returns all records that this node holds, as they were at one moment, those that say who may
// write what first. They must not be changed.
func (g *Gossip) Records() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.core.kept()
}

// Past is the state of a cluster as a backup has it. It is not safe for concurrent use.
type Past struct {
	core    *Core
	check   func(*perigee.Manifest) error
	records [][]byte
	until   record.HLC
}

// OpenPast verifies the records of a backup, all of which a node held as Records returned them, under the
// genesis that began the epoch. One that a node would not have kept is an error that names it. check is as
// in Config.
func OpenPast(genesis []byte, records [][]byte, check func(*perigee.Manifest) error) (*Past, error) {
	core, _, err := replayed(genesis, records, check)
	if err != nil {
		return nil, err
	}
	p := &Past{core: core, check: check, records: records}
	for _, raw := range records {
		if !core.Holds(record.ID(raw)) {
			return nil, fmt.Errorf("record %s is none that this cluster would keep: it was forged, or is of a later release", record.ID(raw))
		}
	}
	for _, e := range core.set.byID {
		p.until = max(p.until, e.rec.HLC)
	}
	return p, nil
}

// replayed returns a core that holds records. Those without effect are not in it.
func replayed(genesis []byte, records [][]byte, check func(*perigee.Manifest) error) (c *Core, opaque [][]byte, err error) {
	epochs, err := record.OpenGenesis(genesis)
	if err != nil {
		return nil, nil, err
	}
	g := epochs[len(epochs)-1].Genesis
	root, err := x509.ParseCertificate(g.Root)
	if err != nil {
		return nil, nil, fmt.Errorf("genesis record: root certificate: %w", err)
	}
	c, err = NewCore(CoreConfig{Cluster: g.Cluster, Root: root, Genesis: genesis, CheckManifest: check, Max: DefaultMaxState, Chance: newRand()})
	if err != nil {
		return nil, nil, err
	}
	opaque, err = c.Load(time.Now(), nil, records)
	return c, opaque, err
}

// Desired returns what the records mean.
func (p *Past) Desired() *perigee.Desired { return p.core.fold.desired }

// Person returns the rights that a key had.
func (p *Past) Person(id perigee.KeyID) (Person, bool) { return p.core.fold.auth.person(id) }

// Until returns the stamp of the last record.
func (p *Past) Until() record.HLC { return p.until }

// Continue writes what of the state counts in the epoch that a genesis begins into the state directory of a
// node with this key, which has never run, and returns what it means.
func (p *Past) Continue(genesis []byte, fsys vfs.FS, dir string, key ed25519.PrivateKey) (*perigee.Desired, error) {
	core, _, err := replayed(genesis, p.records, p.check)
	if err != nil {
		return nil, err
	}
	if last := core.parser.present().Genesis; last.Before == nil || last.Until != p.until {
		return nil, errors.New("the genesis does not follow the backup's epoch")
	}
	l, _, err := openLog(fsys, dir, sealKey(key), func() (verified, others [][]byte) { return core.kept(), nil })
	if err != nil {
		return nil, err
	}
	return core.fold.desired, l.fold(nil)
}
