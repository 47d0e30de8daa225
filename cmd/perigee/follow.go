package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

// quietTime is how long files must not change before they are taken: an editor or a checkout writes
// several.
const quietTime = 200 * time.Millisecond

// follow deploys again when a file of the function changes, until ctx ends.
func (d *dev) follow(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.dir, err)
	}
	defer w.Close()
	if err := watchTree(w, d.dir); err != nil {
		return fmt.Errorf("watch %s: %w", d.dir, err)
	}
	seen, changed := contents{}, map[string]bool{}
	quiet := time.NewTimer(time.Hour) // fires when changes have ended for a moment
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if ignored(e.Name) || e.Op == fsnotify.Chmod {
				continue
			}
			if e.Has(fsnotify.Create) {
				if err := watchTree(w, e.Name); err != nil {
					fmt.Fprintf(d.stderr, "watch %s: %v\n", e.Name, err)
				}
			}
			changed[e.Name] = true
			quiet.Reset(quietTime)
		case err := <-w.Errors:
			fmt.Fprintf(d.stderr, "watch %s: %v\n", d.dir, err)
		case <-quiet.C:
			news := seen.news(changed)
			clear(changed)
			if len(news) > 0 {
				fmt.Fprintf(d.stderr, "\n%s changed\n", strings.Join(news, ", "))
				d.deploy(ctx)
			}
		}
	}
}

// contents remembers what changed files held. A build that writes beside its sources what it wrote
// before would start the next build for ever otherwise.
type contents map[string]perigee.Digest

// news returns the names of the files that hold something else than before, at most a few.
func (c contents) news(files map[string]bool) (names []string) {
	for _, file := range slices.Sorted(maps.Keys(files)) {
		var sum perigee.Digest // zero: it is gone, or a directory
		if b, err := os.ReadFile(file); err == nil {
			sum = digest.Sum(b)
		}
		if before, known := c[file]; known && before == sum {
			continue
		}
		c[file] = sum
		if len(names) < 3 {
			names = append(names, filepath.Base(file))
		} else if len(names) == 3 {
			names = append(names, "…")
		}
	}
	return names
}

// watchTree watches a directory and those below it; a file is watched through its directory.
func watchTree(w *fsnotify.Watcher, path string) error {
	return filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || !e.IsDir():
			return nil // gone again, or watched already
		case ignored(path):
			return filepath.SkipDir
		}
		return w.Add(path)
	})
}

// ignored reports whether a change of the file can't change the function's source: what a build
// writes, editors' files, version control.
func ignored(path string) bool {
	name := filepath.Base(path)
	return strings.HasSuffix(name, ".wasm") || strings.HasSuffix(name, "~") || (strings.HasPrefix(name, ".") && name != "." && name != "..")
}
