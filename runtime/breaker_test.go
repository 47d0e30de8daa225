package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestBreaker lives through processes that die while they load a module.
func TestBreaker(t *testing.T) {
	dir := t.TempDir()
	bad, good := perigee.Digest{1}, perigee.Digest{2}
	start := func() *breaker {
		b := &breaker{dir: dir}
		if err := b.count(); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for death := range quarantineDeaths {
		b := start()
		if err := b.begin(good); err != nil {
			t.Fatal(err)
		}
		b.end(good)
		if err := b.begin(bad); err != nil {
			t.Fatalf("after %d deaths: %v", death, err)
		}
		// The process dies here.
	}
	b := start()
	err := b.begin(bad)
	if !errors.Is(err, ErrQuarantined) || !strings.Contains(err.Error(), "2 times") {
		t.Errorf("after %d deaths: %v", quarantineDeaths, err)
	}
	if err := b.begin(good); err != nil {
		t.Errorf("the other module: %v", err)
	}
	b.end(good)
	if err := start().begin(bad); !errors.Is(err, ErrQuarantined) {
		t.Errorf("after a restart: %v", err)
	}

	// Once its time is over the module is tried again, and a load that ends clears it.
	name := receiptName(bad)
	s := b.read(name)
	s.Last = time.Now().Add(-quarantineTime)
	if err := b.write(name, s); err != nil {
		t.Fatal(err)
	}
	if err := b.begin(bad); err != nil {
		t.Errorf("after the quarantine: %v", err)
	}
	b.end(bad)
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
}

// TestBreakerSurvivesItsFiles checks that damaged files do not stop a start.
func TestBreakerSurvivesItsFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{receiptName(perigee.Digest{1}): "{", ".tmp-1": "half", "other": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := breaker{dir: dir}
	if err := b.count(); err != nil {
		t.Fatal(err)
	}
	if err := b.begin(perigee.Digest{1}); err != nil {
		t.Error(err)
	}
}
