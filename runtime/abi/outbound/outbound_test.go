package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"go.uber.org/goleak"

	wt "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime/abi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sender is a RoundTripper made of a function.
type sender func(*http.Request) (*http.Response, error)

func (f sender) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(body string) *http.Response {
	return &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ContentLength: -1, Header: http.Header{"X-B": {"1", "2"}, "A": {"a\nb: c"}}, Body: io.NopCloser(strings.NewReader(body))}
}

// guest is a module that passes all calls on to the host.
type guest struct {
	*Call
	t   *testing.T
	ctx context.Context
	mod api.Module
}

func newGuest(t *testing.T, ctx context.Context, s Sender) *guest {
	t.Helper()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	t.Cleanup(func() { r.Close(context.Background()) })
	if err := Instantiate(ctx, r); err != nil {
		t.Fatal(err)
	}
	var m wt.Module
	index := map[string]int{}
	names := slices.Sorted(maps.Keys(Signatures()))
	for _, name := range names {
		index[name] = m.Import(Module, name, Signatures()[name])
	}
	for _, name := range names {
		var body []byte
		for i := range strings.IndexByte(Signatures()[name], ':') {
			body = wt.Cat(body, 0x20, i)
		}
		m.Export(name, 0, m.Func(Signatures()[name], 0, body, wt.Call(index[name])))
	}
	m.Memory(4, 4)
	limits := abi.Limits{Response: 1 << 20, Buffer: 1 << 16, Headers: 20, HeaderBytes: 1 << 12}
	var dropped atomic.Int64
	x := &abi.Exchange{
		Request: httptest.NewRequest("GET", "/", nil), Limits: limits, Phase: abi.Requesting,
		Answer: abi.NewAnswer(httptest.NewRecorder(), "GET", limits),
		Log:    abi.NewLog(slog.New(slog.DiscardHandler), abi.NewLogRate(), &dropped),
		Await:  func(f func()) { f() },
	}
	g := &guest{Call: NewCall(x, s), t: t}
	t.Cleanup(g.Close)
	g.ctx = g.Context(ctx)
	mod, err := r.InstantiateWithConfig(g.ctx, m.Bytes(), wazero.NewModuleConfig().WithName(""))
	if err != nil {
		t.Fatal(err)
	}
	g.mod = mod
	return g
}

// try calls a function and returns its result as a signed number, and why the guest was ended.
func (g *guest) try(name string, args ...uint64) (int64, error) {
	g.t.Helper()
	res, err := g.mod.ExportedFunction(name).Call(g.ctx, args...)
	if err != nil {
		if strings.Contains(err.Error(), "Go runtime stack trace") {
			g.t.Fatalf("%s crashed: %v", name, err)
		}
		return 0, errors.Join(g.Err(), err)
	}
	switch {
	case len(res) == 0:
		return 0, nil
	case strings.HasSuffix(Signatures()[name], "I"):
		return int64(res[0]), nil
	}
	return int64(api.DecodeI32(res[0])), nil
}

func (g *guest) do(name string, args ...uint64) int64 {
	g.t.Helper()
	n, err := g.try(name, args...)
	if err != nil {
		g.t.Fatalf("%s%v: %v", name, args, err)
	}
	return n
}

func (g *guest) send(head string, flags, timeout uint64) int64 {
	g.t.Helper()
	g.mod.Memory().Write(0, []byte(head))
	return g.do("send", 0, uint64(len(head)), flags, timeout)
}

// text returns what a function wrote, which it is asked for with the limit that it names.
func (g *guest) text(name string, args ...uint64) string {
	g.t.Helper()
	n := g.do(name, append(args, 1000, 0)...)
	if n < 0 {
		return fmt.Sprint("error ", n, ": ", g.text("error"))
	}
	if again := g.do(name, append(args, 1000, uint64(n))...); again != n {
		g.t.Errorf("%s: %d and then %d", name, n, again)
	}
	b, _ := g.mod.Memory().Read(1000, uint32(n))
	return string(b)
}

func (g *guest) write(handle int64, p string) int64 {
	g.t.Helper()
	g.mod.Memory().Write(0, []byte(p))
	return g.do("write", uint64(handle), 0, uint64(len(p)))
}

func (g *guest) read(handle int64) string {
	g.t.Helper()
	n := g.do("read", uint64(handle), 2000, 5)
	if n < 0 {
		return fmt.Sprint("error ", n, ": ", g.text("error"))
	}
	b, _ := g.mod.Memory().Read(2000, uint32(n))
	return string(b)
}

func TestExchange(t *testing.T) {
	var got *http.Request
	g := newGuest(t, t.Context(), sender(func(r *http.Request) (*http.Response, error) {
		got = r
		b, err := io.ReadAll(r.Body)
		resp := response("body:" + string(b))
		resp.Trailer = http.Header{"X-Sum": {"9"}}
		return resp, err
	}))
	h := g.send("POST https://api.example.com:444/p?q\nX-A: 1\nx-a:\t2 \ncontent-length: 6\nHost: evil\nTransfer-Encoding: x\n", hasBody, 0)
	if h != 1 || g.write(h, "abc") != 3 || g.write(h, "def") != 3 || g.do("finish", 1) != 0 || g.do("finish", 1) != 0 {
		t.Fatalf("handle %d", h)
	}
	if head, want := g.text("head", 1), "200 HTTP/1.1\na: a b: c\nx-b: 1\nx-b: 2\n"; head != want {
		t.Errorf("head %q, want %q", head, want)
	}
	if a, b, c, d := g.read(h), g.read(h), g.read(h), g.read(h); a+b+c+d != "body:abcdef" || g.read(h) != "" {
		t.Errorf("body %q %q %q %q", a, b, c, d)
	}
	if tr := g.text("trailers", 1); tr != "x-sum: 9\n" {
		t.Errorf("trailers %q", tr)
	}
	if got.Method != "POST" || got.URL.String() != "https://api.example.com:444/p?q" || got.ContentLength != 6 || !slices.Equal(got.Header["X-A"], []string{"1", "2"}) || len(got.Header) != 1 || got.Host != "" {
		t.Errorf("sent %+v", got)
	}
	if n := g.write(h, "late"); n != Failed {
		t.Errorf("a write after the end: %d", n)
	}
	g.do("close", 1)
	if _, err := g.try("head", 1, 0, 0); err == nil || !strings.Contains(err.Error(), "not open") {
		t.Errorf("a closed handle: %v", err)
	}
}

func TestNotAllowed(t *testing.T) {
	g := newGuest(t, t.Context(), nil)
	if h := g.send("GET https://a.example/\n", 0, 0); h != Denied || !strings.Contains(g.text("error"), "list the origin under outbound in perigee.toml") {
		t.Errorf("%d: %s", h, g.text("error"))
	}
	g.Phase = abi.Starting
	if _, err := g.try("send", 0, 0, 0, 0); err == nil {
		t.Error("a guest sent something while it started")
	}
}

type classed struct{ denied, limited, timeout bool }

func (classed) Error() string   { return "why" }
func (c classed) Denied() bool  { return c.denied }
func (c classed) Limited() bool { return c.limited }
func (c classed) Timeout() bool { return c.timeout }

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{classed{denied: true}, Denied}, {classed{limited: true}, Limited}, {classed{timeout: true}, TimedOut},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), TimedOut}, {classed{}, Failed}, {io.ErrUnexpectedEOF, Failed},
	} {
		g := newGuest(t, t.Context(), sender(func(*http.Request) (*http.Response, error) { return nil, tt.err }))
		h := g.send("GET https://a.example/", 0, 0)
		if got, want := g.text("head", uint64(h)), fmt.Sprintf("error %d: %v", tt.want, tt.err); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := g.read(h); !strings.HasPrefix(got, fmt.Sprint("error ", tt.want)) {
			t.Errorf("read: %s", got)
		}
	}
	g := newGuest(t, t.Context(), sender(nil))
	for _, head := range []string{
		"", "GET", "GET /path", "GET a.example", "G@T https://a/", "GET https://a/\nno colon", "GET https://a/\n: x", "GET https://a/\na b: x",
		"GET https://a/\na: \x00", "GET https://a/\ncontent-length: x", "GET https://a/\ncontent-length: -1",
		"GET https://a/\ncontent-length: 1\ncontent-length: 1", "GET https://a/\n" + strings.Repeat("a: b\n", 21), "GET https://a/ HTTP/1.1\n", "GET  https://a/",
	} {
		if h := g.send(head, 0, 0); h != Malformed {
			t.Errorf("%q: %d (%s)", head, h, g.text("error"))
		}
	}
	for _, call := range []struct {
		name string
		args []uint64
	}{
		{"head", []uint64{1, 0, 0}}, {"read", []uint64{9, 0, 1}}, {"write", []uint64{0, 0, 0}}, {"finish", []uint64{1}}, {"close", []uint64{1}}, {"trailers", []uint64{1, 0, 0}},
		{"send", []uint64{0, 5000, 0, 0}}, {"send", []uint64{1 << 31, 100, 0, 0}},
	} {
		if _, err := g.try(call.name, call.args...); err == nil {
			t.Errorf("%s%v does not trap", call.name, call.args)
		}
	}
}

func TestLimits(t *testing.T) {
	g := newGuest(t, t.Context(), sender(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return response(strings.Repeat("x", 100)), nil
	}))
	g.Limits = Limits{Open: 2, Total: 4, Bytes: 20}
	const head = "GET https://a.example/\n"
	if g.send(head, 0, 0) != 1 || g.send(head, 0, 0) != 2 || g.send(head, 0, 0) != Limited {
		t.Error("more are open than allowed")
	}
	g.do("close", 1)
	if g.send(head, hasBody, 0) != 3 {
		t.Error("none can be opened after one was closed")
	}
	if g.write(3, "0123456789") != 10 || g.write(3, "01234567891") != Limited {
		t.Error("more bytes are sent than allowed")
	}
	if got := g.read(2); !strings.HasPrefix(got, "error -3") {
		t.Errorf("more bytes are read than allowed: %s", got)
	}
	g.do("close", 2)
	if g.send(head, 0, 0) != 4 || g.do("close", 3) != 0 || g.send(head, 0, 0) != Limited {
		t.Error("more are made than allowed")
	}
	if _, err := g.try("read", 4, 0, 0); err == nil {
		t.Error("a limit of 0 is accepted")
	}
}

// TestEndOfRequest: what waits ends with the request, and so does the guest.
func TestEndOfRequest(t *testing.T) {
	wait := sender(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	endless := sender(func(r *http.Request) (*http.Response, error) {
		resp := response("")
		pr, pw := io.Pipe()
		context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
		resp.Body = pr
		return resp, nil
	})
	cause := errors.New("the client left")
	for name, tt := range map[string]struct {
		s    Sender
		call func(g *guest) (int64, error)
	}{
		"head":  {wait, func(g *guest) (int64, error) { return g.try("head", 1, 0, 0) }},
		"write": {wait, func(g *guest) (int64, error) { return g.try("write", 1, 0, 10) }},
		"read":  {endless, func(g *guest) (int64, error) { return g.try("read", 1, 0, 10) }},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		g := newGuest(t, ctx, tt.s)
		var awaited time.Duration
		g.Await = func(f func()) {
			start := time.Now()
			defer func() { awaited += time.Since(start) }()
			f()
		}
		g.send("POST https://a.example/", hasBody, 0)
		time.AfterFunc(30*time.Millisecond, func() { cancel(cause) })
		if n, err := tt.call(g); !errors.Is(err, cause) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		if awaited < 20*time.Millisecond || awaited > 5*time.Second {
			t.Errorf("%s: waited for %v", name, awaited)
		}
		if _, err := g.try("deadline"); !errors.Is(err, cause) {
			t.Errorf("after the end: %v", err)
		}
		g.Close()
	}
}

func TestTimeout(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	g := newGuest(t, ctx, sender(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}))
	h := g.send("GET https://a.example/", 0, uint64(10*time.Millisecond))
	if got := g.text("head", uint64(h)); !strings.HasPrefix(got, "error -5") {
		t.Errorf("got %s", got)
	}
	if left := time.Duration(g.do("deadline")); left > time.Hour || left < 50*time.Minute {
		t.Errorf("%v left", left)
	}
	if g := newGuest(t, t.Context(), nil); g.do("deadline") != -1 {
		t.Error("there is a deadline")
	}
}

// TestClose: exchanges that a guest leaves open end, with their bodies and goroutines.
func TestClose(t *testing.T) {
	closed := make(chan string, 3)
	g := newGuest(t, t.Context(), sender(func(r *http.Request) (*http.Response, error) {
		switch r.URL.Path {
		case "/hang":
			<-r.Context().Done()
			closed <- "hang"
			return nil, r.Context().Err()
		case "/body":
			_, err := io.ReadAll(r.Body)
			closed <- "body"
			return nil, err
		}
		resp := response("")
		resp.Body = closer{closed}
		return resp, nil
	}))
	g.send("GET https://a/hang", 0, 0)
	g.send("POST https://a/body", hasBody, 0)
	g.send("GET https://a/open", 0, 0)
	g.text("head", 3)
	g.Close()
	g.Close()
	got := []string{<-closed, <-closed, <-closed}
	if slices.Sort(got); !slices.Equal(got, []string{"body", "hang", "open"}) {
		t.Errorf("closed %q", got)
	}
}

type closer struct{ closed chan string }

func (closer) Read([]byte) (int, error) { return 0, io.EOF }
func (c closer) Close() error {
	c.closed <- "open"
	return nil
}

// FuzzHead: what is read as a request is valid and within its bounds.
func FuzzHead(f *testing.F) {
	f.Add("GET https://a.example/\nx-a: b\ncontent-length: 3\n")
	f.Add("POST http://u:p@[::1]:80/?q#f\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, length, err := parseHead(text, 5)
		if err != nil {
			return
		}
		n := 0
		for name, values := range r.Header {
			n += len(values)
			if name != http.CanonicalHeaderKey(name) || !abi.Token(name) || strings.ContainsAny(strings.Join(values, ""), "\r\n\x00") {
				t.Fatalf("field %q: %q", name, values)
			}
		}
		if n > 5 || length < -1 || r.URL.Host == "" || !abi.Token(r.Method) {
			t.Fatalf("%d fields, length %d, %+v", n, length, r)
		}
	})
}

// FuzzHostFunctions calls the functions with any arguments. A guest may be ended by it, the host may not.
func FuzzHostFunctions(f *testing.F) {
	f.Add(byte(0), uint32(0), uint32(20), uint32(1), int64(0))
	f.Add(byte(4), uint32(1), uint32(65530), uint32(0xffffffff), int64(-1))
	names := slices.Sorted(maps.Keys(Signatures()))
	f.Fuzz(func(t *testing.T, which byte, a, b, c uint32, d int64) {
		g := newGuest(t, t.Context(), sender(func(*http.Request) (*http.Response, error) { return response("x"), nil }))
		defer g.Close()
		g.send("GET https://a.example/", 0, 0)
		name := names[int(which)%len(names)]
		args := []uint64{uint64(a), uint64(b), uint64(c), uint64(d)}
		_, _ = g.try(name, args[:strings.IndexByte(Signatures()[name], ':')]...)
	})
}
