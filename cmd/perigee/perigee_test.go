package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestUsage checks exit statuses (0 fine, 1 failed, 2 wrong usage) and that the text says which
// command it is about.
func TestUsage(t *testing.T) {
	t.Setenv("PERIGEE_HOME", t.TempDir())
	t.Setenv(contextEnv, "")
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"", 0, "Clusters and their nodes:"},
		{"--version", 0, "perigee version"},
		{"help", 0, "Exit status: 0 fine"},
		{"help deploy", 0, "perigee deploy [DIR]"},
		{"help token create", 0, "--functions PATTERN"},
		{"deploy --help", 0, "--wait WHAT"},
		{"node", 0, "drain"},
		{"completion bash", 0, "bash completion"},
		{"region ls --builtin", 0, "Frankfurt"},
		{"context ls", 0, "no contexts"},

		{"frobnicate", 2, "perigee: there is no command \"frobnicate\": `perigee --help` lists them"},
		{"depoly", 2, "(did you mean \"deploy\"?)"},
		{"help frobnicate", 2, "there is no command"},
		{"help node frobnicate", 2, "`perigee node --help` lists them"},
		{"node frobnicate", 2, "perigee node: there is no command"},
		{"node lst", 2, "(did you mean \"ls\"?)"},
		{"completion frobnicate", 2, "there is no command"},
		{"deploy a b", 2, "perigee deploy: \"b\" is one argument too many\nusage: perigee deploy [DIR] [flags]"},
		{"deploy --nope", 2, "unknown flag"},
		{"deploy --wait so,on", 2, "use all, a region or group"},
		{"plan a b", 2, "one argument too many"},
		{"show", 2, "perigee show: FUNCTION is missing"},
		{"rm", 2, "FUNCTION is missing"},
		{"invoke", 2, "FUNCTION is missing"},
		{"ls hello", 2, "one argument too many"},
		{"login", 2, "TOKEN is missing"},
		{"login x --name Bad_Name", 1, "token"},
		{"context use", 2, "NAME is missing"},
		{"node rm", 2, "NODE is missing"},
		{"node run now", 2, "one argument too many"},
		{"status --config a --context b", 2, "--config and --context both name a cluster"},
		{"token create", 2, "--region is missing"},
		{"token create --role king", 2, "use node, deploy or operator"},
		{"token create --region fra --signer maybe", 2, "use yes, no or auto"},
		{"token create --region fra --ttl 0", 2, "use a time like 30m"},
		{"token create --region fra --functions x", 2, "--functions goes with --role deploy"},
		{"token create --role deploy --zone x", 2, "--zone goes with --role node"},
		{"token revoke", 2, "is missing"},
		{"region add", 2, "REGION is missing"},
		{"region add Bad --at 1,2", 2, "region"},
		{"region add hel", 2, "want latitude and longitude"},
		{"region add hel --at 60.17,24.94xyz", 2, "want latitude and longitude"},
		{"region add hel --at NaN,24", 2, "want latitude and longitude"},
		{"region add hel --at 91,0", 2, "want latitude and longitude"},
		{"region add hel --at 1,2 --group EU", 2, "--group"},
		{"cluster init", 2, "--region is missing"},
		{"cluster init --region fra --listen here", 2, "settings from the flags"},
		{"dev --tour", 2, "directory is missing"},
		{"dev --once", 2, "--once goes with --tour"},
		{"dev --regions=", 2, "--regions is empty"},
		{"dev a b", 2, "one argument too many"},

		{"cluster init --region atlantis", 1, "there is no region \"atlantis\""},
		{"status", 1, "perigee status: no cluster to talk to"},
		{"status --context nowhere", 1, "there is no context \"nowhere\""},
		{"status --config nowhere.toml", 1, "nowhere.toml"},
		{"context use nowhere", 1, "there is no context"},
		{"node run", 1, "perigee node run: there is no node.toml"},
		{"login hello", 1, "perigee login: read token: this is no token"},
		{"login -", 1, "this is no token"},
		{"check missing", 1, "missing"},
		{"check", 1, "no perigee.toml in ."},
		{"deploy", 1, "perigee deploy: no perigee.toml in ."},
		{"dev nowhere", 1, "no perigee.toml in nowhere"},
	} {
		code, out, errOut := perigeeRun(strings.Fields(c.line)...)
		if code != c.code || !strings.Contains(out+errOut, c.want) {
			t.Errorf("perigee %s: exit %d, want %d with %q\n%s%s", c.line, code, c.code, c.want, out, errOut)
		}
		if (code == 0) != (errOut == "") && !strings.HasPrefix(c.line, "check") {
			t.Errorf("perigee %s: exit %d with %q on standard error", c.line, code, errOut)
		}
	}
}

func perigeeRun(args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

// TestHelp holds every command to what a reader of its help expects.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Hidden || c.Name() == "help" {
			return
		}
		for _, line := range strings.Split(c.Long, "\n") {
			if len([]rune(line)) > 110 {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), len([]rune(line)), line)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		if !c.HasSubCommands() && !strings.HasPrefix(c.CommandPath(), "perigee completion") && c.Args == nil && c.Name() != "check" {
			t.Errorf("%s takes any arguments", c.CommandPath())
		}
	}
	walk(newRoot())
}

// TestJSON checks the shapes of what needs no cluster.
func TestJSON(t *testing.T) {
	t.Setenv("PERIGEE_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	write(t, "bad.wasm", "no module")
	write(t, "good/f.wasm", string(module(guests["hello"])))
	write(t, "good/perigee.toml", "name = \"good\"\nwasm = \"f.wasm\"\n")
	for _, c := range []struct {
		line string
		code int
		want string // the value with everything that is not named left out
	}{
		{"region ls --builtin", 0, ""},
		{"context ls", 0, "[]"},
		{"check good bad.wasm", 1, `[{"ok":true,"path":"good","report":{"abi":"http-wasm"}},{"ok":false,"path":"bad.wasm"}]`},
		{"cluster init --region fra", 0, `{"node":"fra-1","region":"fra","config":"node.toml","operator_key":"operator.key","root":"root.pem","data":"data","next":"perigee node run"}`},
	} {
		code, out, errOut := perigeeRun(append(strings.Fields(c.line), "--json")...)
		if code != c.code || errOut != "" {
			t.Errorf("perigee %s: exit %d, want %d: %s", c.line, code, c.code, errOut)
		}
		var got, want any
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Errorf("perigee %s: %v: %.200s", c.line, err, out)
		}
		if c.want == "" {
			continue
		}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if !covers(got, want) {
			t.Errorf("perigee %s: got %s, want at least %s", c.line, out, c.want)
		}
	}
}

// covers reports whether all that want says is so in got.
func covers(got, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		for k, v := range want {
			ok = ok && covers(g[k], v)
		}
		return ok
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(want) {
			return false
		}
		for i := range want {
			if !covers(g[i], want[i]) {
				return false
			}
		}
		return true
	}
	return got == want
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestInterrupted checks that a command that a signal ended says so.
func TestInterrupted(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", home)
	t.Setenv("PERIGEE_HOME", home)
	t.Chdir(t.TempDir())
	write(t, "perigee.toml", "name = \"f\"\nwasm = \"f.wasm\"\nbuild = \"sleep 60\"\n")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var errOut bytes.Buffer
	if code := run(ctx, []string{"dev", "--tour", "--once", "--regions", "fra", "--port", "0"}, nil, io.Discard, &errOut); code != 1 || !strings.Contains(errOut.String(), "perigee dev: interrupted") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
}

// TestNews checks that a file which is written again as it was starts no build.
func TestNews(t *testing.T) {
	t.Chdir(t.TempDir())
	seen := contents{}
	look := func(want string, files ...string) {
		t.Helper()
		changed := map[string]bool{}
		for _, f := range files {
			changed[f] = true
		}
		if got := strings.Join(seen.news(changed), " "); got != want {
			t.Errorf("%v: news %q, want %q", files, got, want)
		}
	}
	write(t, "a", "1")
	look("a", "a")
	look("", "a")
	write(t, "a", "2")
	write(t, "b", "1")
	look("a b", "a", "b")
	write(t, "b", "1")
	look("", "a", "b")
	if err := os.Remove("a"); err != nil {
		t.Fatal(err)
	}
	look("a", "a")
	look("c d e …", "c", "d", "e", "f", "g")
}

// TestSettingsOfTheSystem checks that a machine whose settings are in /etc keeps its data in /var.
func TestSettingsOfTheSystem(t *testing.T) {
	var s settings
	s.add(newStatus(nil).Flags())
	if err := s.flags.Parse([]string{"--http", "", "--listen", ":7000"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		systemConfig:  "data_dir = \"/var/lib/perigee\"\nlisten = \":7000\"\nhttp = \"\"\n",
		"x/node.toml": "data_dir = \"data\"\nlisten = \":7000\"\nhttp = \"\"\n",
	} {
		if _, got, _ := strings.Cut(string(s.text(path)), "\n"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
