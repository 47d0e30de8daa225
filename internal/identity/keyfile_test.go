package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestKeyRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	key := must(NewKey())(t)
	if err := SaveKey(path, key); err != nil {
		t.Fatal(err)
	}
	if got := must(LoadKey(path))(t); !got.Equal(key) {
		t.Error("another key came back")
	}
	if info := must(os.Stat(path))(t); info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if entries := must(os.ReadDir(filepath.Dir(path)))(t); len(entries) != 1 {
		t.Errorf("%d files, want the key alone", len(entries))
	}
	block, _ := pem.Decode(must(os.ReadFile(path))(t))
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil || block.Type != "PRIVATE KEY" {
		t.Errorf("not PKCS#8 PEM: %q, %v", block.Type, err)
	}
}

func TestSaveNeverOverwrites(t *testing.T) {
	dir := t.TempDir()
	key := must(NewKey())(t)
	dangling := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dangling, sub} {
		err := SaveKey(path, key)
		wantError(t, err, path, "never overwritten")
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v is not fs.ErrExist", path, err)
		}
	}
	if got := must(os.ReadFile(file))(t); string(got) != "old" {
		t.Errorf("the old file now has %q", got)
	}
	if entries := must(os.ReadDir(dir))(t); len(entries) != 3 {
		t.Errorf("%d entries, want the 3 from before", len(entries))
	}
}

func TestSaveByManyIsWonByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var won atomic.Int32
	var winner atomic.Pointer[[]byte]
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b := bytes.Repeat([]byte{byte(i)}, 100)
			switch err := SaveSecret(path, b); {
			case err == nil:
				won.Add(1)
				winner.Store(&b)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d won", won.Load())
	}
	if got := must(LoadSecret(path))(t); !bytes.Equal(got, *winner.Load()) {
		t.Error("the file is not the winner's")
	}
}

func TestSaveFails(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no", "key")
	err := SaveKey(missing, must(NewKey())(t))
	wantError(t, err, "save "+missing)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
	wantError(t, SaveKey(filepath.Join(t.TempDir(), "key"), nil), "key of 0 bytes")
	wantError(t, SaveSecret(filepath.Join(t.TempDir(), "key"), make([]byte, maxSecret+1)), "the limit is 65536")
}

// TestPublishWithoutHardLinks stands for file systems that have none.
func TestPublishWithoutHardLinks(t *testing.T) {
	dir := t.TempDir()
	noLinks := func(_, _ string) error { return errors.ErrUnsupported }
	path := filepath.Join(dir, "key")
	for i, want := range []error{nil, fs.ErrExist} {
		tmp := filepath.Join(dir, "tmp")
		if err := os.WriteFile(tmp, []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := publish(noLinks, tmp, path); !errors.Is(err, want) {
			t.Errorf("number %d: %v, want %v", i, err, want)
		}
	}
	if got := must(os.ReadFile(path))(t); !bytes.Equal(got, []byte{0}) {
		t.Errorf("the file has %v, want the first one's content", got)
	}
}

func TestLoadRefusesOpenModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	key := must(NewKey())(t)
	if err := SaveKey(path, key); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadKey(path)
		wantError(t, err, "chmod 600 "+path)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	_, err := LoadKey(link)
	wantError(t, err, "chmod 600")
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(link); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	good := must(marshalKey(must(NewKey())(t)))(t)
	ec := must(marshalKey(ecdsaKey(t)))(t)
	rsa := must(marshalKey(rsaKey(t)))(t)
	sec1 := must(x509.MarshalECPrivateKey(ecdsaKey(t)))(t)
	x25519 := must(x509.MarshalPKCS8PrivateKey(must(ecdh.X25519().GenerateKey(rand.Reader))(t)))(t)
	for name, tc := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":         {nil, "not a key file"},
		"foreign":       {[]byte("hello\n"), "not a key file"},
		"cut":           {good[:len(good)/2], "not a key file"},
		"two keys":      {append(bytes.Clone(good), good...), "not a key file"},
		"text after":    {append(bytes.Clone(good), 'x'), "not a key file"},
		"other block":   {pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}), "not a key file"},
		"garbage block": {pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: []byte("x")}), "decode key"},
		"ECDSA":         {ec, "ECDSA P-256 key: want an Ed25519 key"},
		"RSA":           {rsa, "RSA 2048 bit key: want an Ed25519 key"},
		"X25519":        {pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: x25519}), "it can't sign"},
		"huge":          {make([]byte, maxSecret+1), "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadKey(path)
			wantError(t, err, tc.want)
		})
	}
	_, err := LoadKey(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v is not fs.ErrNotExist", err)
	}
	_, err = LoadKey(t.TempDir())
	wantError(t, err, "not a regular file")
}
