// Command testguest is a Go guest with one path for each thing that the tests ask of the package guest
// and of the runtime.
package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/perigee-edge/perigee/guest"
)

var requests int // of this instance

func init() {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Length", fmt.Sprint(r.ContentLength))
		if _, err := io.Copy(w, r.Body); err != nil {
			panic(err)
		}
	})
	mux.HandleFunc("/facts", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Method, r.Host, r.URL.Path, r.URL.RawQuery, r.RequestURI, r.Proto, r.RemoteAddr, r.Header["X-Two"], r.ContentLength, os.Getenv("GREETING"), os.Args)
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			buf := make([]byte, 1)
			if _, err := r.Body.Read(buf); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.FormValue("d"))
		start := time.Now()
		io.WriteString(w, strings.Repeat("x", 5000))
		time.Sleep(d)
		fmt.Fprint(w, time.Since(start) >= d)
	})
	mux.HandleFunc("/panic", func(w http.ResponseWriter, r *http.Request) {
		panic("the handler's own words")
	})
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(0) })
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		requests++
		fmt.Fprint(w, requests)
	})
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		log.SetFlags(0)
		log.Print("to standard error")
		fmt.Println("to standard output")
	})
	mux.HandleFunc("/random", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, rand.Text()) })
	mux.HandleFunc("/time", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, time.Now().Unix()) })
	mux.Handle("/files/", http.StripPrefix("/files/", http.FileServerFS(os.DirFS("/"))))
	mux.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile("/new", []byte("x"), 0o600); err == nil {
			fmt.Fprint(w, "written")
		}
	})
	mux.HandleFunc("/opens", func(w http.ResponseWriter, r *http.Request) {
		var held []*os.File
		for {
			f, err := os.Open("/a.txt")
			if err != nil {
				fmt.Fprint(w, len(held) > 0)
				return
			}
			held = append(held, f)
		}
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "X-Private")
		w.Header().Set("X-Private", "1")
		w.Header().Set("Perigee-Receipt", "forged")
		w.Header().Set("X-Kept", "a\r\nX-Split: b")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
	})
	mux.HandleFunc("/memory", func(w http.ResponseWriter, r *http.Request) {
		var all [][]byte
		for {
			all = append(all, make([]byte, 1<<20))
		}
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<20)
		for range 3 << 10 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	guest.Serve(mux)
}

func main() {}
