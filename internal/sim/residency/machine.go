package residency

import (
	"context"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
)

// peerKey is where the mesh puts who sent a hop, as its certificate says.
type peerKey struct{}

// local runs functions, and is where a violation is seen.
type local struct{ m *machine }

func (l local) Invoke(_ context.Context, fn *perigee.Function, _ perigee.RevisionID, rw http.ResponseWriter, _ *http.Request) (edgeproxy.Result, error) {
	w := l.m.world
	w.Ran++
	if !w.allowed(fn.Policy(), l.m.NodeClaims) {
		w.Runs++
	}
	if s := w.flight; s != nil {
		if known := s.view.Desired.Functions[fn.Name]; known == nil || !w.allowed(known.Policy(), l.m.NodeClaims) {
			w.Runs++
		}
	}
	_, err := rw.Write([]byte("ran"))
	return edgeproxy.Result{Start: edgeproxy.StartWarm}, err
}

func (l local) Load(perigee.RevisionID) perigee.Load { return perigee.Load{Slots: 4} }

// hops is the mesh: a call.
type hops struct{ m *machine }

func (h hops) RoundTrip(ctx context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error) {
	w, worker := h.m.world, h.m.world.byID[to]
	w.Hopped++
	if fn := h.m.view.Desired.Functions[r.Header.Get("Perigee-Hop-Function")]; fn == nil || !w.allowed(fn.Policy(), worker.NodeClaims) {
		w.Hops++
	}
	if !worker.up {
		return nil, perigee.Load{}, &perigee.HopError{Node: to, Code: perigee.RefusedSilent}
	}
	res := worker.take(h.m, r.Clone(ctx), h.m)
	if res.refused != "" {
		return nil, perigee.Load{}, &perigee.HopError{Node: to, Code: res.refused}
	}
	return res.Result(), perigee.Load{Slots: 4}, nil
}

func (h hops) RTT(perigee.NodeID) (time.Duration, bool) { return 0, false }

// take has a node's worker serve a hop of another node. sender is that node if it is honest.
func (m *machine) take(from *machine, r *http.Request, sender *machine) *answer {
	res := &answer{ResponseRecorder: httptest.NewRecorder()}
	m.world.flight = sender
	defer func() { m.world.flight = nil }()
	ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), peerKey{}, from.NodeClaims), time.Second)
	defer cancel()
	m.front.HopHandler().ServeHTTP(res, r.WithContext(ctx))
	return res
}

// answer is the response to a hop.
type answer struct {
	*httptest.ResponseRecorder
	refused perigee.RefuseCode
}

func (a *answer) Accept(perigee.Load)                                      {}
func (a *answer) Refuse(code perigee.RefuseCode, _ perigee.Load, _ string) { a.refused = code }
func (a *answer) SetLoad(perigee.Load)                                     {}
