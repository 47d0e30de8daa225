package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// skewed FILE builds the program so that its wall clock is off by the seconds of $SKEW, as that of a machine without NTP.
// The monotonic clock, which timers use, is right.
func skewed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: skewed FILE")
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	ts.Check(err)
	std := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	src, err := os.ReadFile(filepath.Join(std, "time.go"))
	ts.Check(err)
	const now = "sec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(src), now) != 1 {
		ts.Fatalf("this release of Go reads the clock in another way")
	}
	dir := ts.MkAbs("skewed.src")
	files := map[string]string{
		"time.go":      strings.Replace(string(src), now, now+"\tsec += skew\n", 1),
		"skew.go":      "package time\n\nimport \"syscall\"\n\nvar skew = func() int64 {\n\ts, _ := syscall.Getenv(\"SKEW\")\n\tn, _ := atoi(s)\n\treturn int64(n)\n}()\n",
		"overlay.json": "",
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(std, "time.go"): filepath.Join(dir, "time.go"), filepath.Join(std, "skew.go"): filepath.Join(dir, "skew.go"),
	}})
	ts.Check(err)
	files["overlay.json"] = string(overlay)
	ts.Check(os.MkdirAll(dir, 0o700))
	for name, text := range files {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", ts.MkAbs(args[0]), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	ts.Logf("%s", out)
	ts.Check(err)
}
