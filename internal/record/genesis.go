package record

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/perigee-edge/perigee"
)

// Epoch is the life of a cluster from its making, or from a restore of a backup, until the next restore.
type Epoch struct {
	Number  uint32         // from 1; records carry it
	ID      perigee.Digest // identity of the genesis record that began it
	Raw     []byte         // that record
	Genesis *Genesis
	End     HLC // the last stamp that a record of this epoch may have
}

// OpenGenesis decodes a genesis record and checks that the key which it names signed it. It returns the
// epoch that the record began, after all those before it. The record is trusted for what it says: who gave
// it, or that its identity is the one expected, is for the caller to know.
func OpenGenesis(encoded []byte) ([]Epoch, error) {
	var epochs []Epoch
	for raw, end := encoded, HLC(math.MaxUint64); raw != nil; {
		e, err := openEpoch(raw, end)
		if err != nil {
			return nil, fmt.Errorf("genesis record: %w", err)
		}
		epochs = append(epochs, e)
		raw, end = e.Genesis.Before, e.Genesis.Until
	}
	slices.Reverse(epochs)
	for i, e := range epochs {
		if int(e.Number) != i+1 || e.Genesis.Cluster != epochs[0].Genesis.Cluster {
			return nil, fmt.Errorf("genesis record: epoch %d of cluster %s follows %d epochs of cluster %s", e.Number, e.Genesis.Cluster, i, epochs[0].Genesis.Cluster)
		}
	}
	return epochs, nil
}

// openEpoch reads one genesis record, of an epoch in which nothing is stamped later than end.
func openEpoch(raw []byte, end HLC) (e Epoch, err error) {
	r, err := Decode(raw)
	if err != nil {
		return e, err
	}
	p, err := r.Open()
	if err != nil {
		return e, err
	}
	g, ok := p.(*Genesis)
	switch {
	case !ok:
		return e, fmt.Errorf("it is a %s record", r.Kind)
	case r.Cluster != g.Cluster:
		return e, errors.New("it names two clusters")
	case (g.Before == nil) != (g.Until == 0) || g.Until >= r.HLC || r.HLC > end:
		return e, errors.New("its epoch and the one before overlap")
	}
	if err := r.Verify(g.Operator); err != nil {
		return e, err
	}
	return Epoch{Number: r.Epoch, ID: ID(raw), Raw: raw, Genesis: g, End: end}, nil
}
