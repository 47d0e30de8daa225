package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// cached is what the cache has of one module.
type cached struct {
	receipt receipt
	files   []string // of code, module and receipt
	size    perigee.Bytes
	used    time.Time
}

// evict removes what no receipt of this engine names, and then what was not used for longest, until the
// files are within Config.CodeCache. Modules that are loaded here stay, and so does the one that was made
// just now, to be loaded. The caller holds the lock of admissions, so nobody is adding.
func (r *Runtime) evict(made perigee.Digest) {
	entries, orphans := r.cacheEntries()
	var errs []error
	for _, name := range orphans {
		errs = append(errs, os.Remove(name))
	}
	total := perigee.Bytes(0)
	uses := map[string]int{} // modules that differ in data alone have one file of code
	for _, e := range entries {
		total += e.size
		for _, name := range e.files {
			uses[name]++
		}
	}
	slices.SortFunc(entries, func(a, b cached) int { return a.used.Compare(b.used) })
	loaded := r.loadedModules()
	loaded[made] = true
	for _, e := range entries {
		if total <= r.config.CodeCache {
			break
		}
		if loaded[e.receipt.Module] {
			continue
		}
		total -= e.size
		for _, name := range e.files { // the receipt first: without it the rest is an orphan
			if uses[name]--; uses[name] == 0 {
				errs = append(errs, os.Remove(name))
			}
		}
		r.config.Metrics.evictions.Inc()
	}
	if err := errors.Join(errs...); err != nil {
		r.config.Logger.Warn("clean the code cache", "err", err)
	}
}

// cacheEntries lists what receipts name, and the files that none names. A file that is being written is
// neither: revisions are loaded, and their skeletons kept, while others are admitted.
func (r *Runtime) cacheEntries() (entries []cached, orphans []string) {
	named := map[string]bool{}
	receipts, _ := filepath.Glob(filepath.Join(r.config.Dir, receiptDir, "*.json"))
	for _, name := range receipts {
		e := cached{files: []string{name}}
		b, err := os.ReadFile(name)
		if err != nil || json.Unmarshal(b, &e.receipt) != nil || e.receipt.Engine != engineID(r.codeID) || !filepath.IsLocal(e.receipt.Entry) {
			orphans = append(orphans, name)
			continue
		}
		e.files = append(e.files, r.codeName(e.receipt), r.moduleName(e.receipt))
		e.files = slices.DeleteFunc(e.files, func(file string) bool {
			named[file] = true
			info, err := os.Stat(file)
			if err != nil {
				return true
			}
			e.size += perigee.Bytes(info.Size())
			if file == name {
				e.used = info.ModTime()
			}
			return false
		})
		entries = append(entries, e)
	}
	for _, dir := range []string{filepath.Join(codeDir, r.codeID), moduleDir} {
		_ = fs.WalkDir(os.DirFS(r.config.Dir), filepath.ToSlash(dir), func(path string, d fs.DirEntry, err error) error {
			if name := filepath.Join(r.config.Dir, filepath.FromSlash(path)); err == nil && !d.IsDir() && !named[name] && !beingWritten(d) {
				orphans = append(orphans, name)
			}
			return nil
		})
	}
	return entries, orphans
}

// beingWritten tells whether writeFile of this or another process may yet rename a file: a write takes
// moments, and only a crash leaves its file behind.
func beingWritten(d fs.DirEntry) bool {
	if !strings.HasPrefix(d.Name(), tempPrefix) {
		return false
	}
	info, err := d.Info()
	return err != nil || time.Since(info.ModTime()) < time.Minute
}

func (r *Runtime) loadedModules() map[perigee.Digest]bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := map[perigee.Digest]bool{}
	for _, rev := range r.revs {
		out[rev.receipt.Module] = true
	}
	return out
}

// codeName is the file of compiled code that a receipt names.
func (r *Runtime) codeName(rec receipt) string {
	return filepath.Join(r.config.Dir, codeDir, filepath.FromSlash(rec.Entry))
}

// checkCode reports code that is missing or cut. It is asked before the engine maps the code and after: of
// code that is missing the engine says nothing, but compiles the skeleton and stores that.
func (r *Runtime) checkCode(rec receipt) error {
	if info, err := os.Stat(r.codeName(rec)); err != nil || info.Size() != int64(rec.Size) {
		return fmt.Errorf("compiled code %s is missing or cut", rec.Entry)
	}
	return nil
}

// moduleName is where the skeleton of a receipt's module is kept.
func (r *Runtime) moduleName(rec receipt) string {
	return filepath.Join(r.config.Dir, moduleDir, fileName(rec.Module)+".wasm")
}

// keepModule stores the skeleton of a module, by which the engine finds the code again, and notes that it is
// used.
func (r *Runtime) keepModule(rec receipt, wasm []byte) error {
	if digest.Sum(wasm) != rec.Skeleton {
		return errors.New("the rewritten module is not the one that was compiled: restart the node after an upgrade")
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(r.config.Dir, receiptDir, receiptName(rec.Module)), now, now) // only evict looks
	if info, err := os.Stat(r.moduleName(rec)); err == nil && info.Size() == int64(len(wasm)) {
		return nil
	}
	if err := writeFile(r.moduleName(rec), wasm); err != nil {
		return fmt.Errorf("keep the skeleton of a module: %w", err)
	}
	return nil
}

// keptModule reads it again.
func (r *Runtime) keptModule(rec receipt) ([]byte, error) {
	wasm, err := os.ReadFile(r.moduleName(rec))
	if err != nil {
		return nil, err
	}
	if digest.Sum(wasm) != rec.Skeleton {
		_ = os.Remove(r.moduleName(rec))
		return nil, fmt.Errorf("the skeleton %s is damaged", filepath.Base(r.moduleName(rec)))
	}
	return wasm, nil
}
