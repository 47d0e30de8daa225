package record

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/perigee-edge/perigee"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testKey returns a key that is the same in every run.
func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) ed25519.PublicKey { return testKey(n).Public().(ed25519.PublicKey) }

func filled(n byte) (d perigee.Digest) {
	for i := range d {
		d[i] = n
	}
	return d
}

const testCluster = perigee.ClusterID("0123456789abcdef")

var testHLC = HLCAt(time.UnixMilli(1_790_000_000_000)) + 7

// samples has one payload of each kind, with every field set.
func samples() map[string]Payload {
	manifest := perigee.Manifest{
		Name: "hello", Build: "make", Wasm: "hello.wasm", Files: "public/", Next: "files", Isolation: "request",
		Receipt: "full", Steer: "force", Secrets: []string{"DB"}, Outbound: []string{"https://api.example.com"},
		Routes: []perigee.Route{{Host: "hello.example.com", Path: "/api"}, {Path: "/"}},
		Limits: perigee.Limits{Memory: 64 * perigee.MiB, Timeout: perigee.Duration(1500 * time.Millisecond), Fuel: 1 << 40, Concurrency: 9},
		Placement: perigee.Policy{
			Residency: []string{"eu"}, Pin: []string{"fra", "ams"}, Forbid: []string{"node:n3"}, Prefer: []string{"fra"},
			Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}}, Near: "client",
			Warm: map[string]int{"fra": 2, "ams": 1}, Survive: "node", Max: 5, OnUnsatisfiable: "reject",
		},
		Env: map[string]string{"GREETING": "hello", "A": ""},
	}
	return map[string]Payload{
		"genesis": &Genesis{Cluster: testCluster, Domain: "fn.example.com", Operator: public(1), Root: []byte{0x30, 1}, WebRoot: []byte{0x30, 2}},
		"token": &Token{
			Kind: TokenNode, Public: public(2), Signer: "fra-1", Expires: 1_790_003_600, Region: "syd", Zone: "a",
			Labels: map[string]string{"disk": "ssd"}, Roles: []perigee.Role{perigee.RoleSigner},
			Scope: Scope{Functions: []string{"hello*"}, Hosts: []string{"*.example.com"}},
		},
		"redeem":   &Redeem{Token: KeyIDOf(public(2)), Public: public(3), Node: "syd-1", Proof: bytes.Repeat([]byte{9}, 64), Chain: [][]byte{{0x30, 3}, {0x30, 4}}},
		"revoke":   &Revoke{Node: "syd-1", Key: KeyIDOf(public(3))},
		"region":   &Region{Info: perigee.RegionInfo{Code: "zrh", City: "Zürich", Country: "CH", Point: perigee.Point{Lat: 47.45, Lon: 8.5}, Groups: []string{"eu"}}},
		"revision": &Revision{Manifest: manifest, Bundle: filled(0xab), Size: 123456},
		"pointer":  &Pointer{Function: "hello", Revision: filled(0xcd)},
		"secret":   &Secret{Function: "hello", Name: "DB_URL", Sealed: []byte{1, 2, 3}},
		"purge":    &Purge{perigee.PurgeMatch{Function: "hello", Host: "hello.example.com", Tag: "home"}},
		"removal":  &Pointer{Function: "hello"},
		"rollback": &Pointer{Function: "hello", Revision: filled(0xcd), Placement: &perigee.Policy{Residency: []string{"eu"}, Max: 2}, Rollout: "all"},
		"smallest": &Revision{Manifest: perigee.Manifest{Name: "a", Wasm: "a.wasm"}, Bundle: filled(1)},
	}
}

func parentsOf(name string) []perigee.Digest {
	if name == "pointer" {
		return []perigee.Digest{filled(1), filled(2)}
	}
	return nil
}

// TestGolden pins the encoding: a change of these files is a new format version.
func TestGolden(t *testing.T) {
	for name, payload := range samples() {
		t.Run(name, func(t *testing.T) {
			rec, b, err := Sign(testKey(1), testCluster, 1, testHLC, parentsOf(name), payload)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".record", fmt.Sprintf("id    %s\nbytes %d\n%s", ID(b), len(b), wrapHex(b)))

			back, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back, rec) {
				t.Errorf("decoded\n%+v\nwant\n%+v", back, rec)
			}
			if err := back.Verify(public(1)); err != nil {
				t.Errorf("Verify: %v", err)
			}
			if err := back.Verify(public(2)); !errors.Is(err, ErrSignature) {
				t.Errorf("Verify with another key: %v, want ErrSignature", err)
			}
			opened, err := back.Open()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(opened, payload) {
				t.Errorf("opened\n%+v\nwant\n%+v", opened, payload)
			}
		})
	}
}

func sampleRow() perigee.Row {
	return perigee.Row{
		Node: "fra-1", Incarnation: 1_790_000_000_000, Seq: 42, Addr: netip.MustParseAddrPort("192.0.2.1:7443"),
		HTTPS: "https://192.0.2.1", Version: "0.1.0", Draining: true, Digest: filled(7),
		Revisions: map[perigee.RevisionID]perigee.Warmth{"0123456789ab": perigee.Warm, "ba9876543210": perigee.Held},
		Load:      perigee.Load{InFlight: 3, Slots: 16}, Sealing: bytes.Repeat([]byte{6}, 32),
	}
}

func TestGoldenRow(t *testing.T) {
	b, err := SignRow(testKey(4), [][]byte{{0x30, 1}, {0x30, 2}}, sampleRow())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "row.record", wrapHex(b))
	signed, row, err := DecodeRow(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(row, sampleRow()) {
		t.Errorf("decoded %+v, want %+v", row, sampleRow())
	}
	if err := signed.VerifyRow(public(4)); err != nil {
		t.Errorf("VerifyRow: %v", err)
	}
	if err := signed.VerifyRow(public(5)); !errors.Is(err, ErrSignature) {
		t.Errorf("VerifyRow with another key: %v, want ErrSignature", err)
	}
	signed.Row[len(signed.Row)-1] ^= 1
	if err := signed.VerifyRow(public(4)); !errors.Is(err, ErrSignature) {
		t.Errorf("VerifyRow of a changed row: %v, want ErrSignature", err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: the encoding changed, so records of older releases could not be read. Got\n%s\nwant\n%s", path, got, want)
	}
}

func wrapHex(b []byte) string {
	var s strings.Builder
	for line := range slices.Chunk(b, 32) {
		s.WriteString(hex.EncodeToString(line) + "\n")
	}
	return s.String()
}

// TestChanged flips each bit of a record: no flip may yield a record that verifies.
func TestChanged(t *testing.T) {
	_, b, err := Sign(testKey(1), testCluster, 1, testHLC, []perigee.Digest{filled(1)}, &Pointer{Function: "hello", Revision: filled(2)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if rec, err := Decode(bad); err == nil && rec.Verify(public(1)) == nil {
			t.Errorf("bit %d: a changed record verifies", i)
		}
	}
	for n := range b {
		if _, err := Decode(b[:n]); err == nil {
			t.Errorf("the first %d bytes decode", n)
		}
	}
	if _, err := Decode(append(bytes.Clone(b), 0)); err == nil {
		t.Error("a record with a trailing byte decodes")
	}
}

// TestForm checks what Decode refuses though it is CBOR of about the right shape.
func TestForm(t *testing.T) {
	good := []any{1, "c", 1, "pointer", "k", 5, []any{}, []byte{0xa0}, make([]byte, 64)}
	with := func(i int, v any) []any {
		list := append([]any{}, good...)
		list[i] = v
		return list
	}
	parents := make([]any, maxParents+1)
	for i := range parents {
		parents[i] = make([]byte, 32)
	}
	tests := []struct {
		name string
		list []any
		want string // of the error; "" = it decodes
	}{
		{"good", good, ""},
		{"later version", with(0, 2), "format version 2"},
		{"later version with more in it", append(with(0, 2), "more"), "format version 2"},
		{"much later version", with(0, 200), "format version 200"},
		{"too long", append(with(0, 1), "more"), "decode record"},
		{"too short", good[:8], "decode record"},
		{"version as text", with(0, "1"), "decode record"},
		{"null cluster", with(1, nil), "deterministic"},
		{"negative clock", with(5, -1), "decode record"},
		{"null parents", with(6, nil), "null"},
		{"null payload", with(7, nil), "null"},
		{"short parent", with(6, []any{make([]byte, 31)}), "deterministic"},
		{"long parent", with(6, []any{make([]byte, 33)}), "decode record"},
		{"too many parents", with(6, parents), "65 parents"},
		{"short signature", with(8, make([]byte, 63)), "signature of 63 bytes"},
		{"null signature", with(8, nil), "signature of 0 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := encMode.Marshal(tt.list)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Decode(b)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Decode: %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("long form of a length", func(t *testing.T) {
		b, err := encMode.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		long := append([]byte{0x98, 0x09}, b[1:]...) // an array of nine whose length takes a byte of its own
		if _, err := Decode(long); err == nil {
			t.Error("a second encoding of the same record decodes")
		}
	})
}

func TestSizes(t *testing.T) {
	big := &Revision{Manifest: perigee.Manifest{Name: "a", Env: map[string]string{"X": strings.Repeat("x", MaxSize)}}}
	if _, _, err := Sign(testKey(1), testCluster, 1, 1, nil, big); err == nil || !strings.Contains(err.Error(), "make the manifest smaller") {
		t.Errorf("Sign of a payload above MaxSize: %v", err)
	}
	if _, _, err := Sign(testKey(1), testCluster, 1, 1, make([]perigee.Digest, maxParents+1), &Pointer{}); err == nil {
		t.Error("Sign with too many parents works")
	}
	fits := &Revision{Manifest: perigee.Manifest{Name: "a", Env: map[string]string{"X": strings.Repeat("x", MaxSize-1000)}}}
	_, b, err := Sign(testKey(1), testCluster, 1, 1, nil, fits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(b); err != nil {
		t.Errorf("Decode of %d bytes, which Sign made: %v", len(b), err)
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("Decode above MaxSize: %v", err)
	}
	if _, _, err := DecodeRow(make([]byte, MaxRow+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("DecodeRow above MaxRow: %v", err)
	}
}

// TestManyRevisions checks that a reader takes every row that a writer makes.
func TestManyRevisions(t *testing.T) {
	row := sampleRow()
	row.Revisions = map[perigee.RevisionID]perigee.Warmth{}
	for i := range 20_000 {
		row.Revisions[perigee.RevisionID(fmt.Sprintf("%012x", i))] = perigee.Warm
	}
	b, err := SignRow(testKey(4), nil, row)
	if err != nil {
		t.Fatal(err)
	}
	if _, back, err := DecodeRow(b); err != nil || len(back.Revisions) != len(row.Revisions) {
		t.Fatalf("DecodeRow: %d revisions, %v", len(back.Revisions), err)
	}
	for i := range maxPairs {
		row.Revisions[perigee.RevisionID(fmt.Sprintf("%012x", i))] = perigee.Warm
	}
	row.Revisions["x"] = perigee.Warm
	if _, err := SignRow(testKey(4), nil, row); err == nil {
		t.Error("SignRow takes more revisions than DecodeRow reads")
	}
}

func TestOpen(t *testing.T) {
	unknown := &Record{Kind: "surprise", Payload: []byte{0xa0}}
	if _, err := unknown.Open(); err == nil || !strings.Contains(err.Error(), "surprise") {
		t.Errorf("Open of an unknown kind: %v", err)
	}
	extra, err := encMode.Marshal(map[string]any{"function": "hello", "revision": make([]byte, 32), "later": 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&Record{Kind: KindPointer, Payload: extra}).Open()
	if err != nil || p.(*Pointer).Function != "hello" {
		t.Errorf("Open of a payload with a key of a later release: %+v, %v", p, err)
	}
	for name, payload := range map[string][]byte{
		"not cbor": {0xff}, "trailing": {0xa0, 0xa0}, "wrong type": {0x01}, "nothing": {},
		"a key twice": append([]byte{0xa2}, bytes.Repeat(append(append([]byte{0x68}, "function"...), 0x61, 'a'), 2)...),
		"endless map": {0xbf, 0xff}, "tag": {0xc0, 0xa0},
	} {
		if p, err := (&Record{Kind: KindPointer, Payload: payload}).Open(); err == nil {
			t.Errorf("%s: opened as %+v", name, p)
		}
	}
}

func TestHLC(t *testing.T) {
	now := time.UnixMilli(1_790_000_000_000)
	at := HLCAt(now)
	if !at.Time().Equal(now) {
		t.Errorf("Time() = %v, want %v", at.Time(), now)
	}
	tests := []struct {
		name string
		last HLC
		now  time.Time
		want HLC
	}{
		{"the clock moved on", at, now.Add(time.Millisecond), HLCAt(now.Add(time.Millisecond))},
		{"the same millisecond", at, now, at + 1},
		{"the clock went back", at, now.Add(-time.Hour), at + 1},
		{"many in one millisecond", at + 0xffff, now, HLCAt(now.Add(time.Millisecond))},
		{"first", 0, now, at},
	}
	for _, tt := range tests {
		if got := tt.last.Next(tt.now); got != tt.want {
			t.Errorf("%s: Next = %x, want %x", tt.name, got, tt.want)
		}
	}
}

func TestScope(t *testing.T) {
	s := Scope{Functions: []string{"hello*", "api"}, Hosts: []string{"*.example.com"}}
	for name, want := range map[string]bool{"hello": true, "hello-2": true, "api": true, "api2": false, "": false} {
		if got := s.AllowsFunction(name); got != want {
			t.Errorf("AllowsFunction(%q) = %v, want %v", name, got, want)
		}
	}
	for host, want := range map[string]bool{"a.example.com": true, "example.com": false, "a.example.org": false, "evil/a.example.com": false} {
		if got := s.AllowsHost(host); got != want {
			t.Errorf("AllowsHost(%q) = %v, want %v", host, got, want)
		}
	}
	if !(Scope{}).AllowsFunction("any") || !(Scope{}).AllowsHost("any") {
		t.Error("the empty scope does not allow everything")
	}
	if (Scope{Functions: []string{"[bad"}}).AllowsFunction("[bad") {
		t.Error("a malformed pattern allows something")
	}
}

func FuzzDecode(f *testing.F) {
	for name, payload := range samples() {
		_, b, err := Sign(testKey(1), testCluster, 1, testHLC, parentsOf(name), payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := Decode(b)
		if err != nil {
			return
		}
		again, err := encMode.Marshal(rec)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a record has two encodings: %x and %x (%v)", b, again, err)
		}
		_ = rec.Verify(public(1))
		if p, err := rec.Open(); err == nil {
			if _, err := encMode.Marshal(p); err != nil {
				t.Fatalf("an opened payload does not encode: %v", err)
			}
		}
	})
}

func FuzzDecodeRow(f *testing.F) {
	b, err := SignRow(testKey(4), [][]byte{{0x30, 1}}, sampleRow())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x83, 0x41, 0xa0, 0x80, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		signed, row, err := DecodeRow(b)
		if err != nil {
			return
		}
		_ = signed.VerifyRow(public(4))
		if _, err := cbor.Marshal(row); err != nil {
			t.Fatalf("a decoded row does not encode: %v", err)
		}
	})
}
