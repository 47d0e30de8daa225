package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/backup"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// serveBackup streams a backup. One that can't be ended is cut, which its reader notices.
func (n *Node) serveBackup(w http.ResponseWriter, r *http.Request) {
	if err := n.operator(r, "back up"); err != nil {
		fail(w, statusOf(err), err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := n.backup(r.Context(), &pacedWriter{w, http.NewResponseController(w)}); err != nil {
		n.log.Warn("back up", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// backup writes the records that this node holds, and of the bundles that live functions and their rollbacks
// need those that it may hold, in that order.
func (n *Node) backup(ctx context.Context, to io.Writer) error {
	records := n.gossip.Records()
	b, err := backup.NewWriter(to, &backup.Head{Genesis: n.m.genesisRecord, Node: n.ID(), Chain: n.m.identity.Chain(), Made: n.gossip.Now()})
	if err != nil {
		return err
	}
	for _, raw := range records {
		if err := b.Record(raw); err != nil {
			return err
		}
	}
	written := map[perigee.Digest]bool{}
	for _, fn := range byName(n.View().Desired.Functions) {
		for _, rev := range append([]*perigee.Revision{fn.Live}, fn.Kept...) {
			if written[rev.Bundle] {
				continue
			}
			written[rev.Bundle] = true
			if err := n.backupBundle(ctx, b, rev, rev == fn.Live); err != nil {
				return err
			}
		}
	}
	return b.Close(n.m.identity.Key())
}

// backupBundle adds the bundle of a revision if it is here, or, for one that is live, can be brought here.
func (n *Node) backupBundle(ctx context.Context, b *backup.Writer, rev *perigee.Revision, live bool) error {
	defer n.rep.use(rev.Bundle)()
	if live {
		if err := n.rep.fetch(ctx, rev, ""); err != nil {
			n.log.Warn("back up without a bundle", "function", rev.Manifest.Name, "revision", rev.ID, "err", err)
		}
	}
	if !n.rep.store.Has(rev.Bundle) {
		return nil // the reader of the backup says so
	}
	r, size, err := n.rep.store.Open(rev.Bundle)
	if err != nil {
		return err
	}
	defer r.Close()
	return b.Bundle(rev.Bundle, size, r)
}

// byName sorts functions.
func byName(functions map[string]*perigee.Function) []*perigee.Function {
	out := make([]*perigee.Function, 0, len(functions))
	for _, fn := range functions {
		out = append(out, fn)
	}
	slices.SortFunc(out, func(a, b *perigee.Function) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// pacedWriter is the body of an answer whose reader must keep reading: each Write waits for stallTime at most.
type pacedWriter struct {
	body io.Writer
	conn *http.ResponseController
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(stallTime)) // where it can't be set, the connection's own limits hold
	return p.body.Write(b)
}

// Backup is what a backup has in it, verified.
type Backup struct {
	Cluster   perigee.ClusterID `json:"cluster"`
	Epoch     uint32            `json:"epoch"` // of the cluster, when it was made
	Node      perigee.NodeID    `json:"node"`  // that wrote it
	Made      time.Time         `json:"made"`
	Records   int               `json:"records"`
	Functions int               `json:"functions"`
	Bundles   int               `json:"bundles"`
	Bytes     int64             `json:"bytes"` // of the bundles
	// Missing are the live functions without their bundle: that node may not hold it, or nobody had it.
	Missing []string `json:"missing"`

	genesis []byte
	past    *gossip.Past
}

// ReadBackup reads a backup to its end and verifies all of it: its digests, who wrote it, each record, each
// bundle. It keeps the records in memory, and no bundles.
func ReadBackup(r io.Reader) (*Backup, error) {
	b := &Backup{Missing: []string{}}
	var records [][]byte
	bundles := map[perigee.Digest]bool{}
	err := backup.Read(r, backup.Handler{
		Head:   b.head,
		Record: func(raw []byte) error { records = append(records, raw); return nil },
		Bundle: func(d perigee.Digest, size int64, _ io.Reader) error {
			bundles[d], b.Bytes = true, b.Bytes+size
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	if b.past, err = gossip.OpenPast(b.genesis, records, func(m *perigee.Manifest) error { return bundle.CheckManifest(m, nil) }); err != nil {
		return nil, err
	}
	functions := b.past.Desired().Functions
	b.Records, b.Functions, b.Bundles = len(records), len(functions), len(bundles)
	for _, fn := range byName(functions) {
		if !bundles[fn.Live.Bundle] {
			b.Missing = append(b.Missing, fn.Name)
		}
	}
	return b, nil
}

// head checks who wrote a backup, and returns the key of that node.
func (b *Backup) head(h *backup.Head) (ed25519.PublicKey, error) {
	epochs, err := record.OpenGenesis(h.Genesis)
	if err != nil {
		return nil, err
	}
	now := epochs[len(epochs)-1]
	root, err := x509.ParseCertificate(now.Genesis.Root)
	if err != nil {
		return nil, fmt.Errorf("genesis record: root certificate: %w", err)
	}
	// Of any age: where no signer is left, certificates end, and a backup is what helps.
	claims, leaf, err := identity.VerifyNode(root, now.Genesis.Cluster, h.Chain, time.Time{})
	if err != nil {
		return nil, err
	}
	if claims.ID != h.Node {
		return nil, fmt.Errorf("it says that %s wrote it, with the certificate of %s", h.Node, claims.ID)
	}
	b.Cluster, b.Epoch, b.Node, b.Made, b.genesis = now.Genesis.Cluster, now.Number, h.Node, h.Made.Time().UTC(), h.Genesis
	key, _ := leaf.PublicKey.(ed25519.PublicKey) // VerifyNode wants no other
	return key, nil
}
