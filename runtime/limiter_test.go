package runtime_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// computing returns a guest that computes until it is ended.
func computing() []byte {
	var m Module
	m.Memory(1, 0)
	handler(&m, Loop(Br(0)), Const64(0))
	return m.Bytes()
}

// gauge returns the value of a gauge.
func gauge(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// TestProcessorLimit checks that a node with as many guests that compute as it may have refuses more of the
// same before they start, and says that it is full; that a neighbour runs all the same; and that guests which
// wait for something do not count.
func TestProcessorLimit(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := open(t, runtime.Config{Metrics: runtime.NewMetrics(reg)})
	load(t, r, "greedy", computing(), perigee.Limits{})
	load(t, r, "modest", Answer("fine"), perigee.Limits{})
	load(t, r, "waiting", waiting().Bytes(), perigee.Limits{})

	var waits sync.WaitGroup
	let := make(chan struct{})
	for range 100 { // more than the limit is at first
		h := held{make(chan struct{}), let}
		waits.Go(func() { _, _, _ = invoke(t, r, "waiting", httptest.NewRequest("POST", "/", h)) })
		<-h.entered
	}
	if n := gauge(t, reg, "perigee_runtime_computing_requests"); n != 0 {
		t.Errorf("%v guests compute, all wait", n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	limit := int(gauge(t, reg, "perigee_runtime_limit_requests"))
	for range limit {
		runs.Go(func() { _, _, _ = invoke(t, r, "greedy", get("/").WithContext(ctx)) })
	}
	for deadline := time.Now().Add(30 * time.Second); gauge(t, reg, "perigee_runtime_computing_requests") < float64(limit); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests that compute do not count", limit)
		}
	}
	w, usage, err := invoke(t, r, "greedy", get("/"))
	full := (*runtime.Overload)(nil)
	if !errors.As(err, &full) || full.Limit != runtime.LimitNodeProcessor || usage.Start != "" || len(w.Header()) > 0 {
		t.Errorf("one more than %d: %v", limit, err)
	}
	if load, _ := r.Stats("greedy"); load.InFlight < load.Slots || int(load.Slots) > limit {
		t.Errorf("a full node says %+v", load)
	}
	if w, _, err := invoke(t, r, "modest", get("/")); err != nil || w.Body.String() != "fine" {
		t.Errorf("the neighbour: %v, %q", err, w.Body)
	}
	cancel()
	runs.Wait()
	close(let)
	waits.Wait()
	if n := gauge(t, reg, "perigee_runtime_computing_requests"); n != 0 {
		t.Errorf("%v guests compute, all have ended", n)
	}
}
