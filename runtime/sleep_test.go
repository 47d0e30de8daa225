package runtime_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// TestSleep checks that revisions whose code does not fit sleep, the one that was not used for longest
// first, and answer nevertheless, also many requests at once.
func TestSleep(t *testing.T) {
	r := open(t, runtime.Config{CodeMemory: 1}) // room for none: only the one used last is awake
	ids := []perigee.RevisionID{"a", "b", "c"}
	for _, id := range ids {
		load(t, r, id, Answer("from "+string(id)), perigee.Limits{})
	}
	for range 3 {
		for _, id := range ids {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					w, usage, err := invoke(t, r, id, get("/"))
					if err != nil || w.Body.String() != "from "+string(id) || usage.Start == runtime.StartFresh {
						t.Errorf("%s: %q, %+v, %v", id, w.Body, usage, err)
					}
				})
			}
			wg.Wait()
		}
	}
	r.Unload("a")
	if _, _, err := invoke(t, r, "a", get("/")); !errors.Is(err, runtime.ErrNotLoaded) {
		t.Errorf("an unloaded one that slept: %v", err)
	}
}

// TestSleepWithoutCache checks that a revision whose code is gone from the cache when it wakes is not
// loaded any more, and can be loaded again.
func TestSleepWithoutCache(t *testing.T) {
	for _, dir := range []string{"code", "modules", "receipts"} {
		c := runtime.Config{Dir: t.TempDir(), CodeMemory: 1}
		r := open(t, c)
		load(t, r, "a", Answer("a"), perigee.Limits{})
		load(t, r, "b", Answer("b"), perigee.Limits{})
		damage(t, filepath.Join(c.Dir, dir))
		if _, _, err := invoke(t, r, "a", get("/")); !errors.Is(err, runtime.ErrNotLoaded) {
			t.Errorf("%s damaged: %v", dir, err)
		}
		load(t, r, "a", Answer("a"), perigee.Limits{})
		if w, _, err := invoke(t, r, "a", get("/")); err != nil || w.Body.String() != "a" {
			t.Errorf("%s damaged, loaded again: %q, %v", dir, w.Body, err)
		}
	}
}

// damage changes a byte in each file below a directory.
func damage(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		n++
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		return os.WriteFile(name, b, 0o600)
	})
	if err != nil || n == 0 {
		t.Fatalf("%d files in %s, %v", n, dir, err)
	}
}

// TestCacheIsBounded checks that compiled code that was not used for longest goes, that loaded code stays,
// and that files which nobody names go.
func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	r := open(t, runtime.Config{Dir: dir, CodeCache: 1}) // room for nothing but what is loaded
	load(t, r, "loaded", Answer("loaded"), perigee.Limits{})
	modules := filepath.Join(dir, "modules")
	orphan, left, writing := filepath.Join(modules, "orphan.wasm"), filepath.Join(modules, ".tmp-1"), filepath.Join(modules, ".tmp-2")
	for _, name := range []string{orphan, left, writing} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	crash := time.Now().Add(-time.Hour)
	if err := os.Chtimes(left, crash, crash); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		if _, err := r.Admit(t.Context(), perigee.Digest{byte(n)}, Answer(fmt.Sprint("module ", n))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{orphan, left} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s, which nobody names: %v", filepath.Base(name), err)
		}
	}
	if _, err := os.Stat(writing); err != nil {
		t.Errorf("a file that another load is writing: %v", err)
	}
	receipts, _ := filepath.Glob(filepath.Join(dir, "receipts", "*"))
	code, _ := filepath.Glob(filepath.Join(dir, "code", "*", "*"))
	if len(receipts) != len(code) || len(code) > 2 {
		t.Errorf("%d receipts and %d files of code; the bound is exceeded", len(receipts), len(code))
	}
	r.Unload("loaded")
	start := time.Now()
	load(t, r, "loaded", Answer("loaded"), perigee.Limits{})
	if w, _, err := invoke(t, r, "loaded", get("/")); err != nil || !strings.Contains(w.Body.String(), "loaded") {
		t.Errorf("%q, %v", w.Body, err)
	}
	t.Logf("loaded again in %v", time.Since(start))
}
