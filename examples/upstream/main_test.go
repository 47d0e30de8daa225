package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestRepository(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/repos/golang/go" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"full_name": "golang/go", "stargazers_count": 7, "language": "Go", "private": false}`)
	}))
	defer api.Close()
	t.Setenv("API", api.URL)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{owner}/{repository}", repository)
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/golang/go":   {200, `{"full_name":"golang/go","description":"","stargazers_count":7,"language":"Go"}`},
		"/golang/none": {404, "Not Found\n"},
		"/golang":      {404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want.status || w.Body.String() != want.body {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	api.Close()
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/golang/go", nil))
	if w.Code != http.StatusBadGateway {
		t.Errorf("without an upstream: %d", w.Code)
	}
}
