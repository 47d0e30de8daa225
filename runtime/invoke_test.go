package runtime_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// waiting returns a guest that reads the request body and then answers.
func waiting() *Module {
	var m Module
	read := m.Import("http_handler", "read_body", "iii:I")
	m.Memory(1, 0)
	handler(&m, Const(0), Const(0), Const(16), Call(read), drop, Const64(0))
	return &m
}

// held is a request whose body comes when the test says so.
type held struct {
	entered, let chan struct{}
}

func hold() held { return held{make(chan struct{}), make(chan struct{})} }

func (h held) Read([]byte) (int, error) {
	close(h.entered)
	<-h.let
	return 0, errors.New("the test let go")
}

// TestConcurrency checks that a function has no more requests at once than it may, that the next is
// refused before it starts, and that Stats shows them.
func TestConcurrency(t *testing.T) {
	r := open(t, runtime.Config{})
	load(t, r, "f", waiting().Bytes(), perigee.Limits{Concurrency: 2})
	var wg sync.WaitGroup
	var holds []held
	for range 2 {
		h := hold()
		holds = append(holds, h)
		wg.Go(func() { _, _, _ = invoke(t, r, "f", httptest.NewRequest("POST", "/", h)) })
		<-h.entered
	}
	if got, _ := r.Stats("f"); got != (perigee.Load{InFlight: 2, Slots: 2}) {
		t.Errorf("stats %+v", got)
	}
	w, usage, err := invoke(t, r, "f", get("/"))
	if !errors.Is(err, runtime.ErrOverloaded) || usage.Sent || len(w.Header()) > 0 {
		t.Errorf("third request: %v", err)
	}
	r.Unload("f") // while two run
	for _, h := range holds {
		close(h.let)
	}
	wg.Wait()
	if _, ok := r.Stats("f"); ok {
		t.Error("stats of an unloaded revision")
	}
}

// TestMemoryBudget checks that requests together stay within the node's budget: what does not fit is
// refused before it starts, and growth beyond it is denied.
func TestMemoryBudget(t *testing.T) {
	r := open(t, runtime.Config{MemoryBudget: 4 * perigee.MiB})
	var m Module
	read := m.Import("http_handler", "read_body", "iii:I")
	m.Memory(16, 0)
	// Grow by 24 pages, trap if denied; then wait for the body.
	handler(&m, Const(24), 0x40, 0, Const(-1), 0x46, 0x04, 0x40, unreachable, 0x0b,
		Const(0), Const(0), Const(16), Call(read), drop, Const64(0))
	load(t, r, "f", m.Bytes(), perigee.Limits{})
	first := hold()
	var wg sync.WaitGroup
	wg.Go(func() { _, _, _ = invoke(t, r, "f", httptest.NewRequest("POST", "/", first)) })
	<-first.entered // it has 2.5 MiB
	if _, _, err := invoke(t, r, "f", get("/")); !errors.Is(err, runtime.ErrOverloaded) {
		t.Errorf("second request: %v", err)
	}
	close(first.let)
	wg.Wait()
	if _, usage, err := invoke(t, r, "f", get("/")); err != nil || usage.MemoryPages != 40 {
		t.Errorf("after the first: %d pages, %v", usage.MemoryPages, err)
	}
	small := open(t, runtime.Config{MemoryBudget: 2 * perigee.MiB})
	load(t, small, "f", m.Bytes(), perigee.Limits{})
	var guest *runtime.GuestError
	if _, _, err := invoke(t, small, "f", get("/")); !errors.As(err, &guest) || guest.Kind != runtime.GuestMemory || !strings.Contains(guest.Detail, "node's memory budget") {
		t.Errorf("growth beyond the budget: %v", err)
	}
}

// TestCancel checks that a request ends with its caller, and says so.
func TestCancel(t *testing.T) {
	r := open(t, runtime.Config{})
	var m Module
	m.Memory(1, 0)
	handler(&m, Loop(Br(0)), Const64(0))
	load(t, r, "loop", m.Bytes(), perigee.Limits{})
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
	if _, err := r.Invoke(ctx, "loop", httptest.NewRecorder(), get("/"), nil); !errors.Is(err, gone) {
		t.Errorf("canceled: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	var guest *runtime.GuestError
	if _, err := r.Invoke(ctx, "loop", httptest.NewRecorder(), get("/"), nil); !errors.As(err, &guest) || guest.Kind != runtime.GuestDeadline {
		t.Errorf("the caller's deadline: %v", err)
	}
	if _, err := r.Invoke(ctx, "loop", httptest.NewRecorder(), get("/"), nil); !errors.As(err, &guest) {
		t.Errorf("after the caller's deadline: %v", err)
	}
}

// unwilling is a client that takes nothing.
type unwilling struct{ header http.Header }

func (u unwilling) Header() http.Header       { return u.header }
func (u unwilling) WriteHeader(int)           {}
func (u unwilling) Write([]byte) (int, error) { return 0, errors.New("the client has gone") }

// TestClientsThatLeave checks that a client that leaves before its guest starts, or once it has returned, costs
// no instance: making one takes much longer than a request.
func TestClientsThatLeave(t *testing.T) {
	r := open(t, runtime.Config{})
	load(t, r, "f", build(t, "../examples/hello"), perigee.Limits{})
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if u, err := r.Invoke(ctx, "f", httptest.NewRecorder(), get("/"), nil); !errors.Is(err, gone) || u.Wall != 0 {
		t.Errorf("left before: %v, the guest ran for %v", err, u.Wall)
	}
	resets := 0
	for range 20 {
		if _, err := r.Invoke(t.Context(), "f", unwilling{http.Header{}}, get("/"), nil); err == nil {
			t.Fatal("an answer that was not taken is no error")
		}
		_, u, err := invoke(t, r, "f", get("/"))
		if err != nil {
			t.Fatal(err)
		}
		if u.Start == runtime.StartReset {
			resets++
		}
	}
	if resets < 10 {
		t.Errorf("%d instances of 20 were used again", resets)
	}
}

// TestManyAtOnce runs well-behaved and hostile guests side by side.
func TestManyAtOnce(t *testing.T) {
	r := open(t, runtime.Config{Slots: 64})
	load(t, r, "good", Answer("fine"), perigee.Limits{})
	var loop Module
	loop.Memory(1, 0)
	handler(&loop, Loop(Br(0)), Const64(0))
	load(t, r, "loop", loop.Bytes(), perigee.Limits{Timeout: perigee.Duration(200 * time.Millisecond)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var guest *runtime.GuestError
			if _, _, err := invoke(t, r, "loop", get("/")); !errors.As(err, &guest) || guest.Kind != runtime.GuestDeadline {
				t.Errorf("loop: %v", err)
			}
		})
		wg.Go(func() {
			for range 20 {
				if w, _, err := invoke(t, r, "good", get("/")); err != nil || w.Body.String() != "fine" {
					t.Errorf("good: %q, %v", w.Body, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestNext covers a guest that lets another handler answer.
func TestNext(t *testing.T) {
	var m Module
	m.Memory(1, 0)
	handler(&m, Const64(1))
	r := open(t, runtime.Config{})
	load(t, r, "f", m.Bytes(), perigee.Limits{})
	w := httptest.NewRecorder()
	_, err := r.Invoke(t.Context(), "f", w, httptest.NewRequest("PUT", "/x", strings.NewReader("abc")), http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Upgrade", "h9")
		w.Header().Set("X-Next", req.Method+req.URL.Path)
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("by next"))
	}))
	if err != nil || w.Code != http.StatusAccepted || w.Body.String() != "by next" || w.Header().Get("X-Next") != "PUT/x" || w.Header().Get("Upgrade") != "" {
		t.Errorf("%d %q %v, %v", w.Code, w.Body, w.Header(), err)
	}
	if w, _, err := invoke(t, r, "f", get("/")); err != nil || w.Code != http.StatusNotFound {
		t.Errorf("without next: %d, %v", w.Code, err)
	}
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("panic of next: %v", got)
		}
		if load, _ := r.Stats("f"); load.InFlight != 0 {
			t.Errorf("after the panic: %+v", load)
		}
	}()
	_, _ = r.Invoke(t.Context(), "f", w, get("/"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
}

// TestCloseWaits checks that Close refuses new requests and waits for those that run.
func TestCloseWaits(t *testing.T) {
	r, err := runtime.New(runtime.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	load(t, r, "f", waiting().Bytes(), perigee.Limits{})
	h := hold()
	var wg sync.WaitGroup
	wg.Go(func() { _, _, _ = invoke(t, r, "f", httptest.NewRequest("POST", "/", h)) })
	<-h.entered
	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("tired of waiting")
	cancel(tired)
	if err := r.Close(ctx); !errors.Is(err, tired) {
		t.Errorf("close while a request runs: %v", err)
	}
	if _, _, err := invoke(t, r, "f", get("/")); !errors.Is(err, runtime.ErrNotLoaded) {
		t.Errorf("request after close: %v", err)
	}
	close(h.let)
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
