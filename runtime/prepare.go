package runtime

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// prepareTime bounds the start of a guest that is to become an image.
const prepareTime = 5 * time.Second

// errNoImage means that a guest can't be continued from an image: each request starts it anew.
var errNoImage = errors.New("no image")

// prepare lets an instance start, without a request, and makes an image of it: from then on instances
// begin where it ended. It is an improvement only. A guest whose start fails, opens files, or changes
// what can't be copied, is started for each request as it would be without.
func (r *Runtime) prepare(ctx context.Context, rev *revision) {
	img, err := r.startOnce(ctx, rev)
	if err != nil {
		rev.logger.Debug("guest starts anew for each request", "err", err)
		return
	}
	if !r.budget.take(img.resident) {
		img.close()
		return
	}
	rev.image.close()
	rev.image = img
	rev.peak.Store(max(rev.peak.Load(), img.size))
}

func (r *Runtime) startOnce(ctx context.Context, rev *revision) (*image, error) {
	limit := prepareTime
	if rev.timeout > 0 {
		limit = min(limit, rev.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !r.budget.take(rev.initial) {
		return nil, errors.New("the node's memory budget is taken")
	}
	s, err := newSlot(rev, rev.initial, r.budget)
	if err != nil {
		return nil, err
	}
	defer s.drop()
	var dropped atomic.Int64
	log := abi.NewLog(rev.logger, rev.logRate, &dropped)
	defer log.Close()
	i := newInstance(r, s, &abi.Exchange{
		Request: &http.Request{}, Answer: abi.NewAnswer(nobody{}, http.MethodGet, r.limits), Log: log, Limits: r.limits,
	})
	ctx = i.begin(ctx)
	if err := s.start(ctx, r.engine); err != nil {
		return nil, err
	}
	if i.tainted || s.memory.denied != "" || i.exchange.Err() != nil || s.mod.IsClosed() {
		return nil, errNoImage
	}
	b, ok := s.mod.Memory().Read(0, s.mod.Memory().Size())
	if !ok {
		return nil, errNoImage
	}
	img, err := readyImage(b)
	if err != nil {
		return nil, err
	}
	for _, g := range s.state {
		img.globals = append(img.globals, g.Get())
	}
	img.features = i.call.Features()
	return img, nil
}

// nobody is the client of a guest that starts.
type nobody struct{}

func (nobody) Header() http.Header         { return http.Header{} }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}
