package gossip

import (
	"encoding/binary"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// buckets is the width of the hash tree. With 60,000 records a bucket has about 240.
const buckets = 256

// tree is the hash tree that two nodes compare: a root over 256 bucket digests, each over the
// sorted identities of its records. It depends on the set alone, so it needs no counters that must
// survive a crash, and notices records that a disk lost. The governing records have bucket 0 to
// themselves, so that a node that fetches everything learns first who may write what.
type tree struct {
	ids  [buckets][]perigee.Digest // sorted
	sums [buckets]perigee.Digest
	root perigee.Digest
}

func newTree() tree {
	var t tree
	all := map[int]bool{}
	for b := range buckets {
		all[b] = true
	}
	t.rehash(all)
	return t
}

func bucketOf(e *entry) int {
	if e.governs() {
		return 0
	}
	return 1 + int(binary.BigEndian.Uint16(e.id[:2]))%(buckets-1)
}

// insert adds an identity and returns its bucket, which needs a rehash.
func (t *tree) insert(e *entry) int {
	b := bucketOf(e)
	at, _ := slices.BinarySearchFunc(t.ids[b], e.id, compareDigests)
	t.ids[b] = slices.Insert(t.ids[b], at, e.id)
	return b
}

// remove takes an identity out and returns its bucket, which needs a rehash.
func (t *tree) remove(e *entry) int {
	b := bucketOf(e)
	if at, ok := slices.BinarySearchFunc(t.ids[b], e.id, compareDigests); ok {
		t.ids[b] = slices.Delete(t.ids[b], at, at+1)
	}
	return b
}

func (t *tree) rehash(touched map[int]bool) {
	for b := range touched {
		h := digest.New()
		for _, id := range t.ids[b] {
			h.Write(id[:])
		}
		t.sums[b] = digest.Of(h)
	}
	if len(touched) > 0 {
		t.root = digest.Sum(t.packSums())
	}
}

// packSums returns the bucket digests as one string of bytes.
func (t *tree) packSums() []byte { return packDigests(t.sums[:]) }

func packDigests(ds []perigee.Digest) []byte {
	b := make([]byte, 0, len(ds)*len(perigee.Digest{}))
	for _, d := range ds {
		b = append(b, d[:]...)
	}
	return b
}

// unpackDigests reads what packDigests wrote; ok is false when the length is no multiple of a digest's.
func unpackDigests(b []byte) (ds []perigee.Digest, ok bool) {
	const size = len(perigee.Digest{})
	if len(b)%size != 0 {
		return nil, false
	}
	ds = make([]perigee.Digest, len(b)/size)
	for i := range ds {
		copy(ds[i][:], b[i*size:])
	}
	return ds, true
}
