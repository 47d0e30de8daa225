package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/runtime"
	"github.com/perigee-edge/perigee/usage"
)

func testTable(t *testing.T) *usage.Table {
	t.Helper()
	table, _, err := usage.Open(filepath.Join(t.TempDir(), "usage"), usage.Config{Rows: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// observed is a client's connection that looks, with each part, at what was counted before it left.
type observed struct {
	*httptest.ResponseRecorder
	table    *usage.Table
	reported []edgeproxy.Result
	seen     []uint64 // requests counted when the head and each part of the body came
}

func (o *observed) Report(r edgeproxy.Result) { o.reported = append(o.reported, r) }

func (o *observed) WriteHeader(status int) {
	o.look()
	o.ResponseRecorder.WriteHeader(status)
}

func (o *observed) Write(p []byte) (int, error) {
	o.look()
	return o.ResponseRecorder.Write(p)
}

func (o *observed) look() {
	var c usage.Counts
	for _, r := range o.table.Rows() {
		c.Plus(&r.Counts)
	}
	o.seen = append(o.seen, c.Requests)
}

// TestCountedBeforeTheLastByte checks when a request is counted, and that what it uses is counted once.
func TestCountedBeforeTheLastByte(t *testing.T) {
	key := usage.Key{Function: "f", Revision: "a1", Region: "fra", Caller: "wdc"}
	for name, c := range map[string]struct {
		head   bool
		length string
		status int
		parts  int
		final  bool // the guest has ended when the head leaves
		seen   []uint64
	}{
		"small":            {false, "2", 200, 1, true, []uint64{1, 1}},
		"small, in parts":  {false, "4", 200, 2, true, []uint64{1, 1, 1}},
		"long":             {false, "4", 200, 2, false, []uint64{0, 0, 1}},
		"chunked":          {false, "", 200, 2, false, []uint64{0, 0, 0}},
		"chunked at once":  {false, "", 200, 1, true, []uint64{0, 0}},
		"HEAD":             {true, "4", 200, 0, false, []uint64{1}},
		"no content":       {false, "", 204, 0, false, []uint64{1}},
		"empty":            {false, "0", 200, 0, true, []uint64{1}},
		"not modified":     {false, "", 304, 0, true, []uint64{1}},
		"length is no one": {false, "x", 200, 1, true, []uint64{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			table := testTable(t)
			o := &observed{ResponseRecorder: httptest.NewRecorder(), table: table}
			m := &metered{ResponseWriter: o, bill: bill{table: table, key: key, cold: true}, head: c.head, result: edgeproxy.Result{Start: edgeproxy.StartCold}}
			used := runtime.Usage{Start: runtime.StartImage, Fuel: 10, Wall: time.Millisecond, Guest: time.Microsecond, MemoryPages: 3, BytesIn: 5, BytesOut: 2, Final: c.final}
			m.Meter(func() runtime.Usage { return used })
			if c.length != "" {
				m.Header().Set("Content-Length", c.length)
			}
			m.WriteHeader(c.status)
			for range c.parts {
				_, _ = io.WriteString(m, "hi")
			}
			used = runtime.Usage{Start: runtime.StartImage, Fuel: 42, Wall: 3 * time.Millisecond, Guest: 2 * time.Microsecond, MemoryPages: 4, BytesIn: 6, BytesOut: 4, Final: true}
			m.end(used, nil)
			m.lost()
			if len(o.seen) != len(c.seen) {
				t.Fatalf("saw %v, want %v", o.seen, c.seen)
			}
			for i := range c.seen {
				if o.seen[i] != c.seen[i] {
					t.Errorf("counted before each part: %v, want %v", o.seen, c.seen)
					break
				}
			}
			rows := table.Rows()
			want := usage.Counts{Requests: 1, Fuel: 42, Wall: 3e6, Guest: 2e3, PageMicros: 4 * 3000, PeakPages: 4, BytesIn: 6, BytesOut: 4, Image: 1, Cold: 1}
			if len(rows) != 1 || rows[0].Key != key || rows[0].Counts != want {
				t.Errorf("counted %+v, want %+v", rows, want)
			}
			if r := (edgeproxy.Result{Start: edgeproxy.StartCold, Fuel: 10, Partial: !c.final}); len(o.reported) != 1 || o.reported[0] != r {
				t.Errorf("reported %+v, want %+v", o.reported, r)
			}
		})
	}
}

func TestOutcomesAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(m *metered)
		want usage.Counts
	}{
		"refused": {func(m *metered) { m.end(runtime.Usage{}, runtime.ErrNotLoaded) }, usage.Counts{}},
		"guest": {func(m *metered) {
			m.Meter(nothingUsed)
			m.end(runtime.Usage{Fuel: 7, Start: runtime.StartFresh}, &runtime.GuestError{Kind: runtime.GuestTrap})
		}, usage.Counts{Requests: 1, Errors: 1, Fuel: 7, Fresh: 1}},
		"client": {func(m *metered) {
			m.Meter(nothingUsed)
			m.end(runtime.Usage{Fuel: 7, Start: runtime.StartReset}, context.Canceled)
		}, usage.Counts{Requests: 1, Cut: 1, Fuel: 7, Reset: 1}},
		"panic": {func(m *metered) {
			m.Meter(func() runtime.Usage { return runtime.Usage{Fuel: 9} })
		}, usage.Counts{Requests: 1, Cut: 1, Fuel: 9}},
		"failed in the middle": {func(m *metered) {
			m.Meter(func() runtime.Usage { return runtime.Usage{Fuel: 1, Final: true} })
			m.Header().Set("Content-Length", "2")
			m.WriteHeader(http.StatusOK)
			m.end(runtime.Usage{Fuel: 3}, errors.New("connection"))
		}, usage.Counts{Requests: 1, Cut: 1, Fuel: 3}},
	} {
		table := testTable(t)
		m := &metered{ResponseWriter: httptest.NewRecorder(), bill: bill{table: table, key: usage.Key{Function: "f"}}}
		c.do(m)
		m.lost()
		var got usage.Counts
		for _, r := range table.Rows() {
			got.Plus(&r.Counts)
		}
		if got != c.want {
			t.Errorf("%s: counted %+v, want %+v", name, got, c.want)
		}
	}
}

func nothingUsed() runtime.Usage { return runtime.Usage{} }

// BenchmarkMetered is what metering costs a small response, without what the runtime does for it.
func BenchmarkMetered(b *testing.B) {
	table, _, err := usage.Open(filepath.Join(b.TempDir(), "usage"), usage.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	w := &blackHole{header: http.Header{"Content-Length": {"2"}}}
	key := usage.Key{Function: "f", Revision: "a1b2c3d4e5f6", Region: "fra", Caller: "wdc"}
	used := runtime.Usage{Start: runtime.StartReset, Fuel: 10, Wall: 20 * time.Microsecond, MemoryPages: 3, BytesOut: 2, Final: true}
	body := []byte("hi")
	b.ReportAllocs()
	for b.Loop() {
		m := &metered{ResponseWriter: w, bill: bill{table: table, key: key}}
		m.Meter(func() runtime.Usage { return used })
		m.WriteHeader(http.StatusOK)
		_, _ = m.Write(body)
		after := used
		after.Wall += time.Microsecond
		m.end(after, nil)
	}
}

type blackHole struct{ header http.Header }

func (w *blackHole) Header() http.Header         { return w.header }
func (w *blackHole) WriteHeader(int)             {}
func (w *blackHole) Write(p []byte) (int, error) { return len(p), nil }
