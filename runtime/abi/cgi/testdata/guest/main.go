// Command cgiguest is an ordinary program of net/http/cgi, for tests. What it does is in the path.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/request", request)
	http.HandleFunc("/answer", answer)
	http.HandleFunc("/events", events)
	http.HandleFunc("/binary", binary)
	http.HandleFunc("/raw", raw)
	http.HandleFunc("/exit", exit)
	http.HandleFunc("/forever", forever)
	http.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("as asked") })
	if err := cgi.Serve(nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// echo sends back what comes, at once.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	buf := make([]byte, 8<<10)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		w.(http.Flusher).Flush()
		if err != nil {
			return
		}
	}
}

// request tells how the request looks from here.
func request(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	fmt.Fprintln(w, r.Method, r.URL, r.Proto, r.Host, r.RemoteAddr, r.ContentLength, len(body), err)
	fmt.Fprintln(w, r.Header["X-Two"], r.Header["Cookie"], r.Header["Content-Type"], os.Getenv("GREETING"), os.Args)
	env := os.Environ()
	slices.Sort(env)
	fmt.Fprintln(w, strings.Join(env, "\n"))
}

func answer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/x-test; charset=utf-8")
	w.Header().Add("Set-Cookie", "a=1")
	w.Header().Add("Set-Cookie", "b=2")
	if to := r.FormValue("to"); to != "" {
		w.Header().Set("Location", to)
	}
	code, _ := strconv.Atoi(r.FormValue("status"))
	w.WriteHeader(code)
	fmt.Fprint(w, "answered")
}

// events sends an event, waits, and sends another.
func events(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = w.Write(nil)
	time.Sleep(150 * time.Millisecond)
	for i := range 3 {
		fmt.Fprintf(w, "data: %d\n\n", i)
		w.(http.Flusher).Flush()
		time.Sleep(150 * time.Millisecond)
	}
}

func binary(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.FormValue("n"))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(b)
}

// raw prints a text without net/http's help.
func raw(_ http.ResponseWriter, r *http.Request) {
	fmt.Print(r.FormValue("text"))
	os.Exit(0)
}

// exit prints a text and ends with a code.
func exit(_ http.ResponseWriter, r *http.Request) {
	fmt.Print(r.FormValue("text"))
	if r.FormValue("wait") != "" {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "it could not go on")
	code, _ := strconv.Atoi(r.FormValue("code"))
	os.Exit(code)
}

// forever prints the same without end.
func forever(_ http.ResponseWriter, r *http.Request) {
	for {
		fmt.Print(r.FormValue("text"))
	}
}
