package edgeproxy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// lines collects what is written, a line a Write.
type lines struct {
	mu   sync.Mutex
	all  []string
	fail bool
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail {
		return 0, errors.New("disk full")
	}
	l.all = append(l.all, string(b))
	return len(b), nil
}

// TestAccessLog asks with secrets everywhere, and reads what was written when the proxy has ended.
func TestAccessLog(t *testing.T) {
	ca, out := newCA(t), &lines{}
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Set-Cookie", "session=s3cret")
		_, _ = io.WriteString(w, "hello")
	}), newHops(), withTLS(t, ca), func(c *Config) { c.AccessLog = out })
	stop := run(t, p)
	r, _ := http.NewRequest("POST", "https://"+testHost+"/a%20b?token=s3cret", strings.NewReader("12345678"))
	for name, value := range map[string]string{
		"Authorization": "Bearer s3cret", "Proxy-Authorization": "Basic s3cret", "Cookie": "session=s3cret", "X-Api-Key": "s3cret", "User-Agent": "test\n\"1\"", "Referer": "https://u:s3cret@example.com/from?key=s3cret#s3cret",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		r.Header[name] = []string{value}
	}
	r.Header.Set("User-Agent", `test "1"`)
	do(t, client(t, p, ca, true), r)
	get(t, client(t, p, ca, false), "http://"+testHost+"/x")
	r, _ = http.NewRequest("GET", "http://nobody.example.com/", nil)
	do(t, client(t, p, ca, false), r)
	stop()
	if len(out.all) != 3 {
		t.Fatalf("lines:\n%s", out.all)
	}
	if text := strings.Join(out.all, ""); strings.Contains(text, "s3cret") || strings.Count(text, "\n") != 3 {
		t.Errorf("a secret, or not a line each:\n%s", text)
	}
	var got accessLine
	if err := json.Unmarshal([]byte(out.all[0]), &got); err != nil {
		t.Fatal(err)
	}
	got.Time, got.ID, got.Millis = "", "", 0
	want := accessLine{
		Trace: "0af7651916cd43dd8448eb211c80319c", Client: "127.0.0.1", Method: "POST", Scheme: "https", Host: testHost, Path: "/a%20b", Protocol: "HTTP/2.0", TLS: "TLS 1.3",
		Status: 200, Received: 8, Sent: 5, Function: "hello", Revision: testRev, Entry: "fra-1", Node: "fra-1", Region: "fra", Start: "warm", Reason: "local-warm", Tries: 1,
		Agent: `test "1"`, Referer: "https://example.com/from",
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !strings.Contains(out.all[2], `"status":404`) || !strings.Contains(out.all[2], `"error":"unknown"`) {
		t.Errorf("a refusal: %s", out.all[2])
	}
}

// TestAccessLogDocs holds the fields that docs/accesslog.md explains against those that are written.
func TestAccessLogDocs(t *testing.T) {
	doc, err := os.ReadFile("../docs/accesslog.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for row := range strings.Lines(string(doc)) {
		if cells := strings.Split(row, "|"); len(cells) == 4 {
			for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				if explained[m[1]] {
					t.Errorf("docs/accesslog.md explains %s twice", m[1])
				}
				explained[m[1]] = true
			}
		}
	}
	line := reflect.TypeFor[accessLine]()
	for i := range line.NumField() {
		name, _, _ := strings.Cut(line.Field(i).Tag.Get("json"), ",")
		if !explained[name] {
			t.Errorf("docs/accesslog.md does not explain %q", name)
		}
		delete(explained, name)
	}
	for name := range explained {
		t.Errorf("docs/accesslog.md explains %q, which is not written", name)
	}
}

// TestAccessLogOfASlowDisk drops lines, and no request waits.
func TestAccessLogOfASlowDisk(t *testing.T) {
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), quiet, func(c *Config) { c.AccessLog = &lines{} })
	for range accessQueue + 10 { // nobody runs the log
		send(p, request("GET", "/", nil))
	}
	equal(t, "dropped", counter(t, p, "perigee_edgeproxy_access_log_dropped_total", ""), 10)
	p = newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), quiet, func(c *Config) { c.AccessLog = &lines{fail: true} })
	p.access.write([]byte("x"))
	equal(t, "lost", counter(t, p, "perigee_edgeproxy_access_log_dropped_total", ""), 1)
}

func TestTraceContext(t *testing.T) {
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for in, follows := range map[string]bool{
		"00-" + id + "-" + parent + "-01":      true,
		"00-" + id + "-" + parent + "-00":      true,
		"01-" + id + "-" + parent + "-01-more": true,
		"01-" + id + "-" + parent + "-01":      true,
		"":                                     false,
		"t":                                    false,
		"00-" + id + "-" + parent + "-01-more": false,
		"01-" + id + "-" + parent + "-01more":  false,
		"ff-" + id + "-" + parent + "-01":      false,
		"00-" + strings.Repeat("0", 32) + "-" + parent + "-01": false,
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":     false,
		"00-" + strings.ToUpper(id) + "-" + parent + "-01":     false,
		"00-" + id[1:] + "g-" + parent + "-01":                 false,
		"00-" + id + "-" + parent + "-0x":                      false,
		"0g-" + id + "-" + parent + "-01":                      false,
	} {
		h := http.Header{headerTrace: {in}, headerTraceState: {"a=b"}}
		tr := traceOf(h)
		tr.put(h)
		out := h.Get(headerTrace)
		if (tr.id() == id) != follows || len(out) != 55 || strings.Contains(out, parent) || (h[headerTraceState] != nil) != follows {
			t.Errorf("%q: %q, state %q", in, out, h[headerTraceState])
		}
		if follows && out[53:] != "01" && in[53:55] == "01" {
			t.Errorf("%q is sampled, %q is not", in, out)
		}
		again := trace{}
		if !again.parse(out) {
			t.Errorf("%q is not valid", out)
		}
	}
	two := traceOf(http.Header{headerTrace: {"00-" + id + "-" + parent + "-01", "00-" + id + "-" + parent + "-01"}})
	equal(t, "two fields", two.follows, false)
}

// TestTraceReachesTheGuest, and a second request of no trace begins another.
func TestTraceReachesTheGuest(t *testing.T) {
	var seen []string
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get(headerTrace))
	}), newHops(), func(c *Config) { c.AccessLog = &lines{} })
	for range 2 {
		send(p, request("GET", "/", nil))
	}
	if len(seen) != 2 || len(seen[0]) != 55 || seen[0][3:35] == seen[1][3:35] {
		t.Errorf("traces: %q", seen)
	}
}
