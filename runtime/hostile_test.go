package runtime_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// Instructions that the guests below use.
var (
	drop        = []byte{0x1a}
	unreachable = []byte{0x00}
)

// handler adds the two exports of a handler, the first with the given body.
func handler(m *Module, body ...any) {
	f := m.Func(":I", 4, body...)
	g := m.Func("ii:", 0)
	m.Export("handle_request", 0, f)
	m.Export("handle_response", 0, g)
}

// calling returns a guest that calls one host function with constant arguments, n times or for ever.
func calling(module, name, sig string, forever bool, args ...int) *Module {
	var m Module
	f := m.Import(module, name, sig)
	m.Memory(1, 0)
	m.Data(0, "x-header some text\n")
	var call []byte
	for _, a := range args {
		call = Cat(call, Const(a))
	}
	call = Cat(call, Call(f))
	if !strings.HasSuffix(sig, ":") {
		call = Cat(call, drop)
	}
	if forever {
		call = Loop(call, Br(0))
	}
	handler(&m, call, Const64(0))
	return &m
}

// hostile are guests that misbehave in one way each, and what Invoke must say of it.
func hostile() map[string]struct {
	guest *Module
	kind  string
	words string
} {
	type guest = struct {
		guest *Module
		kind  string
		words string
	}
	plain := func(body ...any) *Module {
		var m Module
		m.Memory(1, 0)
		handler(&m, body...)
		return &m
	}
	starting := func(body ...any) *Module {
		var m Module
		m.Memory(1, 0)
		f := m.Func(":", 0, body...)
		handler(&m, Const64(0))
		m.Start(f)
		return &m
	}
	recursion := func() *Module {
		var m Module
		m.Memory(1, 0)
		f := m.Func("i:i", 0, 0x20, 0, Call(0), Const(1), 0x6a)
		handler(&m, Const(0), Call(f), drop, Const64(0))
		return &m
	}
	growing := func(then ...any) *Module { // grows until it gets no more
		return plain(Loop(Const(16), 0x40, 0, Const(-1), 0x47, 0x0d, 0), Cat(then...), Const64(0))
	}
	table := func() *Module {
		var m Module
		m.Memory(1, 0)
		m.Table(10, 90_000)
		handler(&m, Loop(0xd0, 0x70, Const(1000), 0xfc, 15, 0, drop, Br(0)), Const64(0))
		return &m
	}
	exit := func(code int) *Module { return calling("wasi_snapshot_preview1", "proc_exit", "i:", false, code) }
	return map[string]guest{
		"loop":                   {plain(Loop(Br(0)), Const64(0)), "deadline", "still running"},
		"loop in start":          {starting(Loop(Br(0))), "deadline", "still running"},
		"loop of calls":          {calling("wasi_snapshot_preview1", "sched_yield", ":i", true), "deadline", "still running"},
		"sleep":                  {Waiting(time.Hour, ""), "deadline", "still running"},
		"unreachable":            {plain(unreachable), "trap", "unreachable"},
		"unreachable in start":   {starting(unreachable), "trap", "unreachable while it started"},
		"divide by zero":         {plain(Const(1), Const(0), 0x6d, drop, Const64(0)), "trap", "divide by zero"},
		"out of bounds":          {plain(Const(-1), 0x28, 0, 0, drop, Const64(0)), "trap", "out of bounds"},
		"recursion":              {recursion(), "trap", "stack overflow"},
		"memory, then trap":      {growing(unreachable), "memory", "limits.memory is 2048 KiB"},
		"table.grow":             {table(), "deadline", "still running"},
		"exit 0":                 {exit(0), "no-response", "code 0"},
		"exit 3":                 {exit(3), "trap", "code 3"},
		"endless body":           {calling("http_handler", "write_body", "iii:", true, 1, 0, 65536), "response-too-large", "8388608 bytes"},
		"endless headers":        {calling("http_handler", "add_header_value", "iiiii:", true, 1, 0, 8, 9, 4), "response-too-large", "200 fields"},
		"endless trailers":       {calling("http_handler", "add_header_value", "iiiii:", true, 3, 0, 8, 9, 4), "response-too-large", "200 fields"},
		"endless request":        {calling("http_handler", "write_body", "iii:", true, 0, 0, 65536), "trap", "request body of more than"},
		"huge header":            {calling("http_handler", "set_header_value", "iiiii:", false, 1, 0, 8, 0, 65536), "response-too-large", "65536 bytes"},
		"endless log":            {calling("http_handler", "log", "iii:", true, 2, 0, 65536), "deadline", "still running"},
		"status 99":              {calling("http_handler", "set_status_code", "i:", false, 99), "bad-response", "status 99"},
		"status 100":             {calling("http_handler", "set_status_code", "i:", false, 100), "bad-response", "status 100"},
		"status 600":             {calling("http_handler", "set_status_code", "i:", false, 600), "bad-response", "status 600"},
		"status -1":              {calling("http_handler", "set_status_code", "i:", false, -1), "bad-response", "status"},
		"write outside memory":   {calling("http_handler", "get_uri", "ii:i", false, 65536, 100), "trap", "at 65536"},
		"read outside memory":    {calling("http_handler", "write_body", "iii:", false, 1, -1, -1), "trap", "4294967295 bytes"},
		"header kind":            {calling("http_handler", "get_header_names", "iii:I", false, 4, 0, 100), "trap", "header kind 4"},
		"body kind":              {calling("http_handler", "write_body", "iii:", false, 2, 0, 1), "trap", "body kind 2"},
		"read without a limit":   {calling("http_handler", "read_body", "iii:I", false, 0, 0, 0), "trap", "limit of 0"},
		"response body too soon": {calling("http_handler", "read_body", "iii:I", false, 1, 0, 10), "trap", "buffer-response"},
		"header without a name":  {calling("http_handler", "set_header_value", "iiiii:", false, 1, 0, 0, 0, 1), "trap", "name is empty"},
		"method":                 {calling("http_handler", "set_method", "ii:", false, 0, 18), "trap", "not a token"},
		"URI":                    {calling("http_handler", "set_uri", "ii:", false, 0, 18), "trap", "not an encoded path"},
		"request in start":       {requestInStart(), "trap", "no request yet"},
		"random gigabytes":       {calling("wasi_snapshot_preview1", "random_get", "ii:i", true, 0, 65536), "deadline", "still running"},
		"endless output":         {printing(), "deadline", "still running"},
	}
}

// printing returns a guest that prints for ever, without a line break.
func printing() *Module {
	var m Module
	write := m.Import("wasi_snapshot_preview1", "fd_write", "iiii:i")
	m.Memory(1, 0)
	m.Data(0, "\x00\x10\x00\x00\x00\xe0\x00\x00") // one vector: 57,344 bytes at 4096
	handler(&m, Loop(Const(1), Const(0), Const(1), Const(8), Call(write), drop, Br(0)), Const64(0))
	return &m
}

// requestInStart returns a guest that asks for the request before there is one.
func requestInStart() *Module {
	var m Module
	f := m.Import("http_handler", "get_method", "ii:i")
	m.Memory(1, 0)
	s := m.Func(":", 0, Const(0), Const(10), Call(f), drop)
	handler(&m, Const64(0))
	m.Export("_initialize", 0, s)
	return &m
}

// TestHostileGuests checks that each guest ends with a typed error in time, that nothing is sent before
// it is known to be good, and that a neighbour answers throughout.
func TestHostileGuests(t *testing.T) {
	r := open(t, runtime.Config{MaxResponse: 8 * perigee.MiB, MaxBuffer: perigee.MiB, Logger: slog.New(slog.DiscardHandler)})
	load(t, r, "neighbour", Answer("fine"), perigee.Limits{})
	for name, tc := range hostile() {
		t.Run(name, func(t *testing.T) {
			id := perigee.RevisionID(name)
			timeout := time.Minute
			if tc.kind == "deadline" {
				timeout = 100 * time.Millisecond
			}
			load(t, r, id, tc.guest.Bytes(), perigee.Limits{Memory: 2 * perigee.MiB, Timeout: perigee.Duration(timeout)})
			start := time.Now()
			w, usage, err := invoke(t, r, id, httptest.NewRequest("POST", "/", strings.NewReader("body")))
			took := time.Since(start)
			var guest *runtime.GuestError
			if !errors.As(err, &guest) || string(guest.Kind) != tc.kind || !strings.Contains(guest.Detail, tc.words) {
				t.Errorf("got %v, want %s with %q", err, tc.kind, tc.words)
			}
			if took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			if usage.MemoryPages > 32 {
				t.Errorf("%d pages of memory", usage.MemoryPages)
			}
			if !usage.Sent && (w.Body.Len() > 0 || len(w.Header()) > 0) {
				t.Errorf("sent %d bytes and %v", w.Body.Len(), w.Header())
			}
			if w, _, err := invoke(t, r, "neighbour", get("/")); err != nil || w.Body.String() != "fine" {
				t.Errorf("the neighbour: %q, %v", w.Body, err)
			}
			if load, ok := r.Stats(id); !ok || load.InFlight != 0 {
				t.Errorf("stats afterwards: %+v, %v", load, ok)
			}
		})
	}
}

// TestThreeGigabytes is the same over a real server: the answer is cut, the connection is not kept.
func TestThreeGigabytes(t *testing.T) {
	r := open(t, runtime.Config{MaxResponse: 64 * perigee.MiB})
	load(t, r, "big", calling("http_handler", "write_body", "iii:", true, 1, 0, 65536).Bytes(), perigee.Limits{})
	errs := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		usage, err := r.Invoke(req.Context(), "big", w, req, nil)
		errs <- err
		if usage.Sent {
			panic(http.ErrAbortHandler)
		}
	}))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	n, err := discard(res)
	if err == nil || n > 65<<20 {
		t.Errorf("read %d bytes, %v; want an aborted response", n, err)
	}
	var guest *runtime.GuestError
	if err := <-errs; !errors.As(err, &guest) || guest.Kind != runtime.GuestResponseTooLarge {
		t.Errorf("invoke: %v", err)
	}
}

func discard(res *http.Response) (n int64, err error) {
	buf := make([]byte, 64<<10)
	for {
		m, err := res.Body.Read(buf)
		if n += int64(m); err != nil {
			if err.Error() == "EOF" {
				err = nil
			}
			return n, err
		}
	}
}
