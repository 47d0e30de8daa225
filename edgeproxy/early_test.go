package edgeproxy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestExpect has a client wait until its body is wanted, and a function that wants it late, or never: nobody
// asks for the body before, on whatever node the function runs.
func TestExpect(t *testing.T) {
	ca := newCA(t)
	everyWay(t, func(t *testing.T, version int, how way) {
		if how == fakeHop || how == quicHop && version == 2 { // reads bodies at once; net/http keeps the field to itself
			return
		}
		var told atomic.Int64
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			if code == http.StatusContinue {
				told.Add(1)
			}
			return nil
		}})
		p := serving(t, ca, how, newLocal(func(w http.ResponseWriter, r *http.Request) {
			if a, ok := w.(Accepter); ok {
				a.Accept()
			}
			time.Sleep(50 * time.Millisecond) // enough for what must not happen
			before := told.Load()
			if r.URL.Path == "/never" {
				http.Error(w, fmt.Sprintf("told %d times", before), http.StatusExpectationFailed)
				return
			}
			b, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v %v, told %d times before", r.Header.Get("Expect"), string(b), err, before)
		}))
		c := clientSpeaking(t, p, ca, version)
		if tr, ok := c.Transport.(*http.Transport); ok {
			tr.ExpectContinueTimeout = time.Minute
		}
		expect := expectContinue
		if version == 2 {
			expect = ""
		}
		for path, want := range map[string]string{"/": expect + " body <nil>, told 0 times before", "/never": "told 0 times\n"} {
			told.Store(0)
			r, _ := http.NewRequestWithContext(ctx, "POST", "https://"+testHost+path, strings.NewReader("body"))
			r.Header.Set("Expect", "100-continue")
			resp, got := do(t, c, r)
			if got != want || (told.Load() > 0) != (path == "/") {
				t.Errorf("%s: %d %q, told to go on %d times", path, resp.StatusCode, got, told.Load())
			}
		}
	})
}

// hinted is a client that notes what it gets before the response.
type hinted struct {
	header http.Header
	early  []string
	body   strings.Builder
}

func (h *hinted) Header() http.Header         { return h.header }
func (h *hinted) Write(p []byte) (int, error) { return h.body.Write(p) }
func (h *hinted) WriteHeader(status int) {
	if status < 200 {
		h.early = append(h.early, h.header.Get("Link"))
	}
}

// TestEarlyHintsOfTwo asks two nodes, both of which send Early Hints: the client gets those of one.
func TestEarlyHintsOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h, gaveUp := hedged(t, near())
		hinting := func(name string, then func(*http.Request) (*http.Response, perigee.Load, error)) func(*http.Request) (*http.Response, perigee.Load, error) {
			return func(r *http.Request) (*http.Response, perigee.Load, error) {
				header := http.Header{"Link": {name}}
				if err := httptrace.ContextClientTrace(r.Context()).Got1xxResponse(http.StatusEarlyHints, textproto.MIMEHeader(maps.Clone(header))); err != nil {
					return nil, perigee.Load{}, err
				}
				return then(r)
			}
		}
		h.on("lhr-1", hinting("lhr", after(5*time.Second, gaveUp, "lhr")))
		h.on("fra-1", hinting("fra", answers("fra")))
		w := &hinted{header: http.Header{}}
		p.ServeHTTP(w, request("GET", "/", nil))
		if w.body.String() != "fra" || len(w.early) != 1 || w.early[0] != "lhr" || w.header.Get("Link") != "" {
			t.Errorf("%q, hints %q, then %q", w.body.String(), w.early, w.header.Get("Link"))
		}
	})
}
