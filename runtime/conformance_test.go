package runtime_test

import (
	"errors"
	"fmt"
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
