package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestHeaders(t *testing.T) {
	h := headers(http.FileServerFS(os.DirFS("public")))
	for path, want := range map[string]string{"/": "no-cache", "/style.css": "public, max-age=86400"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || w.Header().Get("Cache-Control") != want || w.Header().Get("Content-Security-Policy") == "" || strings.TrimSpace(w.Body.String()) == "" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
}
