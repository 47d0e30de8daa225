package cgi_test

import (
	"net/http/httptest"
	"os"
	"testing"
)

// BenchmarkProgram measures a whole request to a program that is started for it: in C, and in Go with
// net/http/cgi.
func BenchmarkProgram(b *testing.B) {
	c, err := os.ReadFile("testdata/upper.wasm")
	if err != nil {
		b.Fatal(err)
	}
	g, err := program()
	if err != nil {
		b.Fatal(err)
	}
	for name, wasm := range map[string][]byte{"C": c, "Go": g} {
		b.Run(name, func(b *testing.B) {
			h := newHost(b, wasm)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				if _, err := h.serve(w, httptest.NewRequest("GET", "/binary?n=100", nil)); err != nil || w.Code != 200 {
					b.Fatal(w.Code, err)
				}
			}
		})
	}
}
