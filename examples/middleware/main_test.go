package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestProtect(t *testing.T) {
	t.Setenv("KEYS", "00 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b") // of "secret"
	var got *http.Request
	h := protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	for key, want := range map[string]int{"secret": 200, "": 401, "Secret": 401, "00": 401} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Api-Key", key)
		r.Header.Set("Perigee-Region", "fra")
		got = nil
		h.ServeHTTP(w, r)
		if w.Code != want || (got != nil) != (want == 200) {
			t.Errorf("key %q: %d, reached the origin: %v", key, w.Code, got != nil)
		}
		if got != nil && (got.Header.Get("X-Api-Key") != "" || w.Header().Get("X-Checked-In") != "fra") {
			t.Errorf("the origin saw %v, the client %v", got.Header, w.Header())
		}
	}
}
