package runtime_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// meter is a writer that asks what was used when the head leaves, and afterwards.
type meter struct {
	*httptest.ResponseRecorder
	ask   func() runtime.Usage
	heads []runtime.Usage
}

func (m *meter) Meter(f func() runtime.Usage) { m.ask = f }

func (m *meter) WriteHeader(status int) {
	m.heads = append(m.heads, m.ask())
	m.ResponseRecorder.WriteHeader(status)
}

// writer answers with parts of 60,000 bytes, and computes something between them.
func writer(parts int) []byte {
	var m Module
	write := m.Import("http_handler", "write_body", "iii:")
	m.Memory(1, 1)
	var body []byte
	for range parts {
		body = Cat(body, Const(1), Const(0), Const(60_000), Call(write), Const(100), 0x21, 0, Loop(0x20, 0, Const(1), 0x6b, 0x22, 0, 0x0d, 0))
	}
	handler(&m, body, Const64(0))
	return m.Bytes()
}

// TestMetered checks that the fuel of a response that is complete when its head leaves is the last word.
func TestMetered(t *testing.T) {
	r := open(t, runtime.Config{})
	load(t, r, "small", Answer("hello"), perigee.Limits{})
	load(t, r, "large", writer(3), perigee.Limits{})
	for id, final := range map[perigee.RevisionID]bool{"small": true, "large": false} {
		for range 3 { // also with an instance that served before
			m := &meter{ResponseRecorder: httptest.NewRecorder()}
			usage, err := r.Invoke(t.Context(), id, m, get("/"), nil)
			if err != nil || len(m.heads) != 1 || !usage.Final || usage.Fuel == 0 {
				t.Fatalf("%s: %v, %+v, heads %+v", id, err, usage, m.heads)
			}
			head := m.heads[0]
			if head.Final != final || (head.Fuel == usage.Fuel) != final || head.Fuel > usage.Fuel || head.Start != usage.Start {
				t.Errorf("%s: at the head %+v, at the end %+v", id, head, usage)
			}
			if after := m.ask(); after != usage {
				t.Errorf("%s: asked later %+v, want %+v", id, after, usage)
			}
		}
	}
	refused := &meter{ResponseRecorder: httptest.NewRecorder()}
	if _, err := r.Invoke(t.Context(), "none", refused, get("/"), nil); err == nil || refused.ask != nil {
		t.Errorf("a request that is refused is metered: %v", err)
	}
}

// TestMeterAfterAPanic checks that what was used is known when the next handler panicked.
func TestMeterAfterAPanic(t *testing.T) {
	r := open(t, runtime.Config{})
	var m Module
	m.Memory(1, 1)
	handler(&m, Const64(1)) // calls on the next handler
	load(t, r, "f", m.Bytes(), perigee.Limits{})
	w := &meter{ResponseRecorder: httptest.NewRecorder()}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_, _ = r.Invoke(t.Context(), "f", w, get("/"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("next") }))
	}()
	if u := w.ask(); u.Fuel == 0 || u.Wall == 0 || u.Final {
		t.Errorf("used %+v", u)
	}
}

// TestWhichLimit checks the limits that errors name besides their kind.
func TestWhichLimit(t *testing.T) {
	r := open(t, runtime.Config{})
	var deep Module
	deep.Memory(1, 1)
	itself := deep.Func(":", 0, Call(0))
	handler(&deep, Call(itself), Const64(0))
	load(t, r, "deep", deep.Bytes(), perigee.Limits{})
	var guest *runtime.GuestError
	if _, _, err := invoke(t, r, "deep", get("/")); !errors.As(err, &guest) || guest.Limit != runtime.LimitDepth {
		t.Errorf("recursion: %v", err)
	}
	load(t, r, "f", waiting().Bytes(), perigee.Limits{Concurrency: 1})
	h := hold()
	var wg sync.WaitGroup
	wg.Go(func() { _, _, _ = invoke(t, r, "f", httptest.NewRequest("POST", "/", h)) })
	<-h.entered
	var full *runtime.Overload
	if _, _, err := invoke(t, r, "f", get("/")); !errors.As(err, &full) || full.Limit != runtime.LimitConcurrency || !errors.Is(err, runtime.ErrOverloaded) {
		t.Errorf("slots: %v", err)
	}
	close(h.let)
	wg.Wait()
	small := open(t, runtime.Config{MemoryBudget: 2 * perigee.MiB})
	load(t, small, "f", waiting().Bytes(), perigee.Limits{})
	var big Module
	big.Memory(40, 0)
	handler(&big, Const64(0))
	load(t, small, "big", big.Bytes(), perigee.Limits{})
	if _, _, err := invoke(t, small, "big", get("/")); !errors.As(err, &full) || full.Limit != runtime.LimitNodeMemory {
		t.Errorf("memory: %v", err)
	}
}

// TestLines checks that lines have the function, the revision and the request's id.
func TestLines(t *testing.T) {
	var got []string
	r := open(t, runtime.Config{Lines: func(l runtime.Line) {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", l.Function, l.Revision, l.Request, l.Level, l.Text))
	}})
	var m Module
	log := m.Import("http_handler", "log", "iii:")
	m.Memory(1, 1)
	m.Data(0, "hi\nthere")
	handler(&m, Const(1), Const(0), Const(8), Call(log), Const64(0))
	load(t, r, "f", m.Bytes(), perigee.Limits{})
	req := get("/")
	req.Header.Set("Perigee-Request-Id", "0123")
	if _, _, err := invoke(t, r, "f", req); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "; ") != "f f 0123 WARN hi·there" {
		t.Errorf("lines %q", got)
	}
}
