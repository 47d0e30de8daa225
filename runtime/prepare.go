package runtime

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// prepareTime bounds the start of a guest that is to become an image.
const prepareTime = 5 * time.Second

// prepare lets a guest start, without a request, and makes an image of it: from then on instances begin
// where it ended. It is an improvement only. A guest whose start fails, leaves files open, or changes
// what can't be copied, is started for each request as it would be without.
func (r *Runtime) prepare(ctx context.Context, rev *revision) {
	limit := prepareTime
	if rev.timeout > 0 {
		limit = min(limit, rev.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := rev.module.Prepare(ctx, func(ctx context.Context, i *sandbox.Instance) error {
		q := newRequest(r, rev, i, nobody{}, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}})
		defer q.close()
		if err := rev.program.start(q.bind(ctx), q); err != nil {
			return err
		}
		if !q.system.Pristine() || q.exchange.Err() != nil {
			return errors.New("it left files open")
		}
		rev.features = q.features
		return nil
	})
	if err != nil {
		rev.logger.Debug("guest starts anew for each request", "err", err)
	}
}

// nobody is the client of a guest that starts.
type nobody struct{}

func (nobody) Header() http.Header         { return http.Header{} }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}
