package runtime

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"golang.org/x/sys/cpu"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// The names in Config.Dir.
const (
	codeDir       = "code"
	moduleDir     = "modules"
	receiptDir    = "receipts"
	loadingDir    = "loading"
	stagingPrefix = "admit-"
	tempPrefix    = ".tmp-" // of files that writeFile has yet to rename
)

// receipt is the outcome of an admission: that this machine, with this engine, has compiled this
// module, and what file that made. It is named for the digest of the module as it was given.
type receipt struct {
	Module   perigee.Digest `json:"module"`
	Skeleton perigee.Digest `json:"skeleton"` // of the module as it runs, which has its digest
	Engine   string         `json:"engine"`   // version, architecture, system, processor features, rewriter
	Entry    string         `json:"entry"`    // file below code/, with slashes
	Code     perigee.Digest `json:"code"`     // of that file
	Size     perigee.Bytes  `json:"size"`     // of that file
	Report   Report         `json:"report"`
	Made     time.Time      `json:"made"`
	Sum      perigee.Digest `json:"sum"` // of all above, as JSON with a sum of zeros
}

// sum returns what Sum is to be.
func (rec receipt) sum() perigee.Digest {
	rec.Sum = perigee.Digest{}
	b, err := json.Marshal(rec)
	if err != nil {
		return perigee.Digest{} // numbers and texts: can't fail
	}
	return digest.Sum(b)
}

// engineID names all that compiled code depends on. Code moved to another kind of processor must not
// be used, though it may run.
func engineID(codeID string) string {
	h := digest.New()
	fmt.Fprintf(h, "%v %v %s rewriter %d", cpu.X86, cpu.ARM64, goruntime.GOARCH, wasmbin.RewriterVersion)
	return codeID + "+" + digest.Of(h).Short()
}

func fileName(d perigee.Digest) string { return hex.EncodeToString(d[:]) }

func receiptName(d perigee.Digest) string { return fileName(d) + ".json" }

// readReceipt returns the receipt of a module if there is one for this engine and the code that it
// names is there, whole and unchanged. Otherwise it says why not.
func (r *Runtime) readReceipt(module perigee.Digest) (receipt, error) {
	var rec receipt
	b, err := os.ReadFile(filepath.Join(r.config.Dir, receiptDir, receiptName(module)))
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("read receipt: %w", err)
	}
	switch {
	case rec.Sum != rec.sum():
		return rec, errors.New("read receipt: it changed on the disk")
	case rec.Module != module:
		return rec, errors.New("read receipt: it is of another module")
	case rec.Engine != engineID(r.codeID):
		return rec, fmt.Errorf("read receipt: made by engine %s, this is %s", rec.Engine, engineID(r.codeID))
	case !filepath.IsLocal(rec.Entry):
		return rec, errors.New("read receipt: its entry is not a local name")
	}
	got, size, err := digestFile(r.codeName(rec))
	if err != nil {
		return rec, err
	}
	if got != rec.Code || size != rec.Size {
		return rec, fmt.Errorf("compiled code %s is damaged", rec.Entry)
	}
	return rec, nil
}

// writeReceipt stores a receipt, whole or not at all.
func (r *Runtime) writeReceipt(rec receipt) error {
	rec.Sum = rec.sum()
	b, err := json.MarshalIndent(rec, "", "\t")
	if err == nil {
		err = writeFile(filepath.Join(r.config.Dir, receiptDir, receiptName(rec.Module)), b)
	}
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	return nil
}

// digestFile returns digest and size of a file.
func digestFile(name string) (d perigee.Digest, size perigee.Bytes, err error) {
	f, err := os.Open(name)
	if err != nil {
		return d, 0, err
	}
	defer f.Close()
	h := digest.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return d, 0, fmt.Errorf("read %s: %w", name, err)
	}
	return digest.Of(h), perigee.Bytes(n), nil
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes renames in a directory last.
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
