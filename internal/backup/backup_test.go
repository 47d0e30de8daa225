package backup

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/mutant"
	"github.com/perigee-edge/perigee/internal/record"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

var archives = [][]byte{[]byte("the first archive"), bytes.Repeat([]byte("another "), 5000)}

// written returns a backup of two records and two archives.
func written(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, &Head{Genesis: []byte("genesis"), Node: "fra-1", Chain: [][]byte{{1}}, Made: 9})
	for _, raw := range []string{"record one", "record two"} {
		if err == nil {
			err = w.Record([]byte(raw))
		}
	}
	for _, a := range archives {
		if err == nil {
			err = w.Bundle(digest.Sum(a), int64(len(a)), bytes.NewReader(a))
		}
	}
	if err == nil {
		err = w.Close(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// got is what a backup had in it.
type got struct {
	head     *Head
	records  []string
	archives []string
}

func readAll(b []byte) (g got, err error) {
	err = Read(bytes.NewReader(b), Handler{
		Head: func(h *Head) (ed25519.PublicKey, error) {
			g.head = h
			return key.Public().(ed25519.PublicKey), nil
		},
		Record: func(raw []byte) error { g.records = append(g.records, string(raw)); return nil },
		Bundle: func(_ perigee.Digest, _ int64, r io.Reader) error {
			a, err := io.ReadAll(r)
			g.archives = append(g.archives, string(a))
			return err
		},
	})
	return g, err
}

func TestRoundTrip(t *testing.T) {
	g, err := readAll(written(t))
	if err != nil {
		t.Fatal(err)
	}
	if g.head.Node != "fra-1" || string(g.head.Genesis) != "genesis" || g.head.Made != 9 || strings.Join(g.records, ",") != "record one,record two" {
		t.Errorf("read %+v with records %q", g.head, g.records)
	}
	for i, a := range archives {
		if g.archives[i] != string(a) {
			t.Errorf("archive %d came back as %d bytes, was %d", i, len(g.archives[i]), len(a))
		}
	}
}

// TestDamage: a file that was cut anywhere, of which any one bit is another, or which goes on after its end, is
// no backup.
func TestDamage(t *testing.T) {
	whole := written(t)
	step := len(whole)/500 + 1
	for n := 0; n < len(whole); n += step {
		if _, err := readAll(whole[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut after %d of %d bytes: %v", n, len(whole), err)
		}
		flipped := bytes.Clone(whole)
		flipped[n] ^= 1 << (n % 8)
		if _, err := readAll(flipped); !errors.Is(err, ErrDamaged) {
			t.Errorf("a bit of byte %d flipped: %v", n, err)
		}
	}
	if _, err := readAll(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

// TestUnsigned: somebody who takes a record out, and mends every length, can't sign for the node.
func TestUnsigned(t *testing.T) {
	whole := written(t)
	entry := string(entryStart(kindRecord, 10)) + "record one"
	without := []byte(strings.Replace(string(whole), entry, "", 1))
	if len(without) != len(whole)-len(entry) {
		t.Fatal("the record is not where it should be")
	}
	if _, err := readAll(without); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "changed since the node signed it") {
		t.Errorf("without a record: %v", err)
	}
}

// TestWrongBundle: the digest of an archive is compared also where nobody wants the archive.
func TestWrongBundle(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, &Head{})
	if err == nil {
		err = w.Bundle(digest.Sum([]byte("one")), 3, strings.NewReader("two"))
	}
	if err == nil {
		err = w.Close(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	err = Read(&b, Handler{Head: func(*Head) (ed25519.PublicKey, error) { return key.Public().(ed25519.PublicKey), nil }})
	if !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

// TestOversized: what says that it is too large is refused before memory is taken for it.
func TestOversized(t *testing.T) {
	head := func(k kind, length uint64) []byte {
		return binary.BigEndian.AppendUint64([]byte{byte(k)}, length)
	}
	whole := written(t)
	first := len(magic) + entryHead + int(binary.BigEndian.Uint64(whole[len(magic)+1:]))
	for name, b := range map[string][]byte{
		"a head":   append([]byte(magic), head(kindHead, maxHead+1)...),
		"a record": append(bytes.Clone(whole[:first]), head(kindRecord, record.MaxSize+1)...),
		"a bundle": append(bytes.Clone(whole[:first]), head(kindBundle, 1<<62)...),
		"an end":   append(bytes.Clone(whole[:first]), head(kindEnd, 1<<40)...),
	} {
		after := &io.LimitedReader{R: zeros{}, N: 16 << 20}
		err := Read(io.MultiReader(bytes.NewReader(b), after), Handler{
			Head:   func(*Head) (ed25519.PublicKey, error) { return key.Public().(ed25519.PublicKey), nil },
			Record: func([]byte) error { return nil },
		})
		if !errors.Is(err, ErrDamaged) || after.N < 15<<20 {
			t.Errorf("%s: %v, with %d bytes left of what followed", name, err, after.N)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func FuzzRead(f *testing.F) {
	whole := written(f)
	f.Add(whole)
	f.Add(whole[:200])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := readAll(b); err == nil && !bytes.Equal(b, whole) {
			t.Fatal("a file that this test did not sign was read as whole")
		}
	})
}

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }
