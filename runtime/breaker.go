package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/perigee-edge/perigee"
)

// ErrQuarantined means that this node died while it loaded the module, more than once. The module is
// not loaded here for a while; other nodes decide for themselves.
var ErrQuarantined = errors.New("module is quarantined on this node")

const (
	quarantineDeaths = 2                // deaths while loading that quarantine a module
	quarantineTime   = 30 * time.Minute // after which it is tried once more
)

// breaker remembers on disk which modules were being loaded when the process died, so that a module
// that kills the node does not kill it at every start. One file per module, there only while it is
// being loaded or has deaths to its name.
type breaker struct {
	dir string
	mu  sync.Mutex // one writer of the files
}

// suspicion is the content of such a file.
type suspicion struct {
	Loading bool      `json:"loading"`
	Deaths  int       `json:"deaths"`
	Last    time.Time `json:"last"` // of the last death
}

// count counts the loads that previous processes did not live to end. Nobody may be loading.
func (b *breaker) count() error {
	files, err := os.ReadDir(b.dir)
	if err != nil {
		return fmt.Errorf("count deaths while loading: %w", err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), tempPrefix) {
			_ = os.Remove(filepath.Join(b.dir, f.Name()))
			continue
		}
		s := b.read(f.Name())
		if !s.Loading {
			continue
		}
		s.Loading, s.Deaths, s.Last = false, s.Deaths+1, time.Now()
		if err := b.write(f.Name(), s); err != nil {
			return err
		}
	}
	return nil
}

// begin notes that a module is about to be loaded, or returns ErrQuarantined.
func (b *breaker) begin(module perigee.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := receiptName(module)
	s := b.read(name)
	if wait := quarantineTime - time.Since(s.Last); s.Deaths >= quarantineDeaths && wait > 0 {
		return fmt.Errorf("%w: the node died %d times while loading it; it is tried again in %v, or at once after %s is removed",
			ErrQuarantined, s.Deaths, wait.Round(time.Second), filepath.Join(b.dir, name))
	}
	s.Loading = true
	err := b.write(name, s)
	if errors.Is(err, syscall.ENOSPC) && s.Deaths == 0 {
		return nil // a node whose disk is full goes on serving what harmed nobody so far
	}
	return err
}

// end notes that the process is alive after loading: the module is not to blame for anything.
func (b *breaker) end(module perigee.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = os.Remove(filepath.Join(b.dir, receiptName(module)))
}

// read returns what is known; a file that can't be read says nothing.
func (b *breaker) read(name string) (s suspicion) {
	if content, err := os.ReadFile(filepath.Join(b.dir, name)); err == nil {
		_ = json.Unmarshal(content, &s)
	}
	return s
}

func (b *breaker) write(name string, s suspicion) error {
	content, err := json.Marshal(s)
	if err == nil {
		err = writeFile(filepath.Join(b.dir, name), content)
	}
	if err != nil {
		return fmt.Errorf("note that a module is being loaded: %w", err)
	}
	return nil
}
