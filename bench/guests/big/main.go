// Command big is a reactor with much of Go's library in it: a request of package net/http is made from JSON
// and answered with a page from a template. It calls nothing of its host but WASI.
package main

import (
	"bytes"
	"encoding/json"
	"html/template"
	"net/http"
	"net/http/httptest"
	"unsafe"
)

func main() {}

var page = template.Must(template.New("page").Parse("<h1>{{.Method}} {{.URL.Path}}</h1>{{range $k, $v := .Header}}<p>{{$k}}: {{$v}}</p>{{end}}"))

var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	if err := page.Execute(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
})

var buffer [64 << 10]byte

//go:wasmexport buffer
func exportBuffer() int32 { return int32(uintptr(unsafe.Pointer(&buffer))) }

// handle answers the request in the buffer's first n bytes, and returns the length of the answer there.
//
//go:wasmexport handle
func handle(n int32) int32 {
	var in struct {
		Method, URL string
		Header      http.Header
		Body        string
	}
	if err := json.Unmarshal(buffer[:n], &in); err != nil {
		return int32(copy(buffer[:], err.Error()))
	}
	r, err := http.NewRequest(in.Method, in.URL, bytes.NewReader([]byte(in.Body)))
	if err != nil {
		return int32(copy(buffer[:], err.Error()))
	}
	r.Header = in.Header
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return int32(copy(buffer[:], w.Body.Bytes()))
}
