package runtime_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime"
)

func conformance(t testing.TB) string {
	dir := os.Getenv("PERIGEE_CONFORMANCE")
	if dir == "" {
		t.Skip("PERIGEE_CONFORMANCE is not set: the outside modules are not here")
	}
	return dir
}

// serve returns a server that answers with one guest in front of next.
func serve(t *testing.T, wasm []byte, next http.Handler) *httptest.Server {
	t.Helper()
	r := open(t, runtime.Config{})
	load(t, r, "f", wasm, perigee.Limits{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		usage, err := r.Invoke(req.Context(), "f", w, req, next)
		if err != nil && !usage.Sent {
			w.Header().Set("Guest-Error", err.Error())
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// TestTCK asks the guest of http-wasm's compatibility kit each of its questions, in front of a backend
// that tells what it was asked.
func TestTCK(t *testing.T) {
	wasm, err := os.ReadFile(filepath.Join(conformance(t), "http-wasm", "tck.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, wasm, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Next-Method", req.Method)
		w.Header().Set("Next-URI", req.RequestURI)
		for name, values := range req.Header {
			w.Header().Set("Next-Header-"+name, strings.Join(values, ","))
		}
		b, _ := io.ReadAll(req.Body)
		w.Header().Set("Next-Body", fmt.Sprint(len(b)))
	}))
	type want map[string]string // header -> value; "body" is the body
	type test struct {
		id, method, path string
		header           http.Header
		body             string
		want             want
	}
	tests := []test{
		{id: "get_protocol_version", want: want{"body": "HTTP/1.1"}},
		{id: "set_method", want: want{"Next-Method": "POST"}},
		{id: "get_source_addr"},
		{id: "get_header_values/request/lowercase-key", header: http.Header{"Single-Header": {"value"}}},
		{id: "get_header_values/request/mixedcase-key", header: http.Header{"Single-Header": {"value"}}},
		{id: "get_header_values/request/not-exists"},
		{id: "get_header_values/request/multiple-values", header: http.Header{"Multi-Header": {"value1", "value2"}}},
		{id: "get_header_names/request", header: http.Header{"A-Header": {"value1"}, "B-Header": {"2"}}},
		{id: "set_header_value/request/new", want: want{"Next-Header-New-Header": "value"}},
		{id: "set_header_value/request/existing", header: http.Header{"Existing-Header": {"bear"}}, want: want{"Next-Header-Existing-Header": "value"}},
		{id: "add_header_value/request/new", want: want{"Next-Header-New-Header": "value"}},
		{id: "add_header_value/request/existing", header: http.Header{"Existing-Header": {"bear"}}, want: want{"Next-Header-Existing-Header": "bear,value"}},
		{id: "remove_header/request/new", header: http.Header{"Existing-Header": {"bear"}}, want: want{"Next-Header-Existing-Header": "bear"}},
		{id: "remove_header/request/existing", header: http.Header{"Existing-Header": {"bear"}}, want: want{"Next-Header-Existing-Header": ""}},
	}
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"} {
		tests = append(tests, test{id: "get_method/" + m, method: m, want: want{"Next-Method": m}})
	}
	for id, uri := range map[string]string{"simple": "/simple", "simple/escaping": "/simple%26clean", "query": "/animal?name=panda", "query/escaping": "/disney?name=chip%26dale"} {
		tests = append(tests, test{id: "get_uri/" + id, path: uri, want: want{"Next-Uri": uri}})
		tests = append(tests, test{id: "set_uri/" + id, want: want{"Next-Uri": uri}})
	}
	for id, size := range map[string]int{"empty": 0, "small": 5, "medium": 2048, "large": 4096, "xlarge": 5000} {
		tests = append(tests, test{id: "read_body/request/" + id, method: "POST", body: strings.Repeat("a", size), want: want{"Next-Body": fmt.Sprint(size)}})
	}
	for _, tc := range tests {
		t.Run(tc.id, func(t *testing.T) {
			method := tc.method
			if method == "" {
				method = "GET"
			}
			req, err := http.NewRequest(method, srv.URL+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if tc.header != nil {
				req.Header = tc.header
			}
			req.Header.Set("X-Httpwasm-Tck-Testid", tc.id)
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusOK || res.Header.Get("X-Httpwasm-Tck-Handled") != "1" {
				t.Errorf("%s: %v", res.Status, res.Header)
			}
			for name, value := range tc.want {
				got := res.Header.Get(name)
				if name == "body" {
					got = string(body)
				}
				if got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
		})
	}
}

// TestOutsideHandlers runs the other http-wasm guests: each must do what its name says.
func TestOutsideHandlers(t *testing.T) {
	dir := filepath.Join(conformance(t), "http-wasm")
	guests, err := filepath.Glob(filepath.Join(dir, "*", "*.wasm"))
	if err != nil || len(guests) < 20 {
		t.Fatalf("%d guests, %v", len(guests), err)
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Next", "yes")
		fmt.Fprint(w, req.Method, " ", req.RequestURI)
	})
	r := open(t, runtime.Config{Logger: slog.New(slog.DiscardHandler)})
	// What comes of "POST /v1.0/hi?name=panda" with a body of 11 bytes: status and body, or the kind of
	// the error.
	const passed = "200 POST /v1.0/hi?name=panda"
	want := map[string]string{
		"bench/add_header_value":              "200 ",
		"bench/get_header_names":              "200 ",
		"bench/get_header_values":             "200 ",
		"bench/get_uri":                       "200 ",
		"bench/log":                           "200 ",
		"bench/read_body":                     "200 ",
		"bench/read_body_stream":              "200 ",
		"bench/remove_header":                 "200 ",
		"bench/set_header_value":              "200 ",
		"bench/set_status_code":               "404 ",
		"bench/set_uri":                       "200 ",
		"bench/write_body":                    "200 " + strings.Repeat("\x00", 11),
		"e2e/handle_response":                 passed,
		"e2e/header_names":                    passed,
		"e2e/header_value":                    passed,
		"e2e/method":                          passed,
		"e2e/protocol_version":                "200 HTTP/1.1",
		"e2e/uri":                             "200 POST /v1.0/hello?name=teddy",
		"error/panic_on_handle_request":       "trap",
		"error/panic_on_handle_response":      "trap",
		"error/panic_on_start":                "trap",
		"error/set_request_header_after_next": "trap",
	}
	for _, path := range guests {
		name := strings.TrimSuffix(filepath.ToSlash(path[len(dir)+1:]), ".wasm")
		wasm, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		load(t, r, perigee.RevisionID(name), wasm, perigee.Limits{})
		req := httptest.NewRequest("POST", "/v1.0/hi?name=panda", strings.NewReader("hello world"))
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Accept", "*/*")
		w := httptest.NewRecorder()
		_, err = r.Invoke(t.Context(), perigee.RevisionID(name), w, req, next)
		got := fmt.Sprint(w.Code, " ", w.Body)
		if guest := (*runtime.GuestError)(nil); errors.As(err, &guest) {
			got = string(guest.Kind)
		} else if err != nil {
			got = err.Error()
		}
		if got != want[name] {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want[name])
		}
	}
}
