package node

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/egress"
	"github.com/perigee-edge/perigee/runtime"
	"github.com/perigee-edge/perigee/usage"
)

// bill counts one request, once, in the table of what functions have used. What a request used while its
// response was leaving is added afterwards.
type bill struct {
	table   *usage.Table
	key     usage.Key
	cold    bool
	counted bool
	charged runtime.Usage // so far
}

// charge counts the request, if that was not done, and adds what it used since.
func (b *bill) charge(u runtime.Usage, outcome usage.Counts) {
	c := outcome
	c.Fuel = u.Fuel - b.charged.Fuel
	c.Wall = uint64(u.Wall - b.charged.Wall)
	c.Guest = uint64(u.Guest - b.charged.Guest)
	c.PageMicros = pageMicros(u) - pageMicros(b.charged)
	c.PeakPages = uint64(u.MemoryPages)
	c.BytesIn = uint64(u.BytesIn - b.charged.BytesIn)
	c.BytesOut = uint64(u.BytesOut - b.charged.BytesOut)
	if !b.counted {
		b.counted = true
		c.Requests = 1
		switch u.Start {
		case runtime.StartFresh:
			c.Fresh = 1
		case runtime.StartImage:
			c.Image = 1
		case runtime.StartReset:
			c.Reset = 1
		}
		if b.cold {
			c.Cold = 1
		}
	}
	b.charged = u
	b.table.Add(b.key, &c, time.Now())
}

func pageMicros(u runtime.Usage) uint64 {
	return uint64(u.MemoryPages) * uint64(u.Wall/time.Microsecond)
}

// metered is the response writer that a guest's response leaves through. It counts the request before
// the last byte is handed on, so that who has the whole response finds it counted; and it reports the
// fuel for the receipt when the head leaves.
type metered struct {
	http.ResponseWriter
	bill
	result edgeproxy.Result
	head   bool                 // the request's method is HEAD
	meter  func() runtime.Usage // nil = the guest was not started
	status int                  // 0 = the head was not written
	wrote  bool
	ended  bool
	left   int64 // bytes until the Content-Length; below 0 = it has none

	upgrade *egress.Upgrade // nil = the client did not ask for another protocol
}

// Meter implements runtime.Metered.
func (m *metered) Meter(f func() runtime.Usage) { m.meter = f }

// Accept implements runtime.Accepter.
func (m *metered) Accept() { accept(m.ResponseWriter) }

func accept(w http.ResponseWriter) {
	if a, ok := w.(edgeproxy.Accepter); ok {
		a.Accept()
	}
}

// Unwrap is for http.ResponseController.
func (m *metered) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// WriteHeader writes the head.
func (m *metered) WriteHeader(status int) {
	if !m.wrote && status != http.StatusEarlyHints {
		m.wrote, m.status = true, status
		m.begin(status)
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *metered) begin(status int) {
	m.left = -1
	if n, err := strconv.ParseInt(m.Header().Get("Content-Length"), 10, 64); err == nil {
		m.left = n
	}
	u := m.meter()
	bodyless := m.head || m.left == 0 || status == http.StatusNoContent || status == http.StatusNotModified
	if bodyless || m.left > 0 && u.Final {
		m.charge(u, usage.Counts{})
	}
	if rep, ok := m.ResponseWriter.(edgeproxy.Reporter); ok {
		r := m.result
		r.Fuel, r.Partial = u.Fuel, !u.Final
		rep.Report(r)
	}
}

// Write writes a part of the body.
func (m *metered) Write(p []byte) (int, error) {
	if m.left >= 0 {
		if m.left -= int64(len(p)); m.left <= 0 && !m.counted {
			m.charge(m.meter(), usage.Counts{})
		}
	}
	return m.ResponseWriter.Write(p)
}

// end counts what is left when the guest and its response have ended.
func (m *metered) end(u runtime.Usage, err error) {
	m.ended = true
	var outcome usage.Counts
	if guest := (*runtime.GuestError)(nil); errors.As(err, &guest) {
		outcome.Errors = 1
	} else if err != nil {
		outcome.Cut = 1
	}
	if m.meter != nil {
		m.charge(u, outcome)
	}
}

// lost is end for a handler that panicked.
func (m *metered) lost() {
	if !m.ended && m.meter != nil {
		m.end(m.meter(), errors.New("panic"))
	}
}
