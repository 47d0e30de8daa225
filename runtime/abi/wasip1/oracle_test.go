package wasip1_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// differs are the programs and arguments with which the engine's own functions give something else, and
// why ours do not.
var differs = map[string]string{
	"cargo-wasi ls sub/../..": "a path that leads out is ENOTCAPABLE, as the snapshot has it, not EPERM",
	"tinygo ls sub/../..":     "the same",
	"zig-cc ls sub/../..":     "the same",
	"tinygo ls sub repeat":    "a directory can be rewound by fd_seek",
	"tinygo ls ./a":           "fd_readdir of a file is ENOTDIR, as getdents has it, not EBADF",
	"tinygo ls ./a/":          "a path that ends with / demands a directory",
	"zig-cc open-rdonly":      "a file can't be made in a read-only file system: EROFS, not ENOENT",
	"zig-cc open-wronly":      "the same",
}

// TestOracle runs the programs with which the engine tests its own functions, in Rust, TinyGo, Zig and C
// by Zig's libc, and compares with what they print there.
func TestOracle(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"a": {}, "b-": {Data: []byte("wazero\n")}, "sub/c": {}, "sub/d": {}, "empty": {Mode: 0o755 | os.ModeDir}}
	for _, name := range []string{"cargo-wasi", "tinygo", "zig", "zig-cc"} {
		wasm, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "imports/wasi_snapshot_preview1/testdata", name, "wasi.wasm"))
		if err != nil {
			t.Skipf("the module of the engine has no test data here: %v", err)
		}
		for _, args := range []string{
			"ls ./.", "ls ./", "ls ./sub", "ls sub repeat", "ls ./a", "ls ./a/", "ls ./none", "ls ./none/x", "ls empty", "ls sub/..", "ls sub/../..",
			"stat", "preopen", "sleepmillis 10", "open-rdonly", "open-wronly", "nonblock b-", "none",
		} {
			p := program{Args: strings.Fields(args), interpret: true}
			mine, theirs := ours(t.Context(), t, wasm, files, p), engine(t.Context(), t, wasm, files, p)
			mine.err, theirs.err = trapped(mine.err), trapped(theirs.err)
			why, listed := differs[name+" "+args]
			switch same := mine == theirs; {
			case same && listed:
				t.Errorf("%s %s is listed as another than the engine's: %s", name, args, why)
			case !same && !listed:
				t.Errorf("%s %s:\n%+v\nthe engine's own:\n%+v", name, args, mine, theirs)
			}
		}
	}
}

// trapped leaves of the engine's error that there is one.
func trapped(err string) string {
	if err != "" {
		return "trapped"
	}
	return ""
}
