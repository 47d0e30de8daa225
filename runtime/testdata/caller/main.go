// Command caller is a Go guest that makes requests of its own, and a middleware: one path for each thing
// that the tests ask of the packages guest and guest/outbound.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/perigee-edge/perigee/guest"
	_ "github.com/perigee-edge/perigee/guest/outbound"
)

var warmed = []string{}

func init() {
	guest.WarmUp(func() { warmed = append(warmed, "first") })
	guest.WarmUp(func() { warmed = append(warmed, "second") })
	guest.Middleware(middleware)
}

func main() {}

func middleware(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/warmed", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, warmed) })
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(r.URL.Query().Get("url"))
		if err != nil {
			var ue *url.Error
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, errors.As(err, &ue), " ", err)
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		fmt.Fprintf(w, "%s %v %q %v %v", resp.Status, resp.Header["X-Up"], b, err, resp.Trailer)
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) { // a proxy of its own
		out, _ := http.NewRequestWithContext(r.Context(), r.Method, r.URL.Query().Get("url"), r.Body)
		out.ContentLength = r.ContentLength
		out.Header.Set("X-From", "guest")
		resp, err := http.DefaultClient.Do(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Trailer", "X-Sum")
		buf := make([]byte, 1000)
		total := 0
		for {
			n, err := resp.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			w.(http.Flusher).Flush()
			total += n
			if err != nil {
				break
			}
		}
		w.Header().Set("X-Sum", fmt.Sprint(total))
		w.Header().Set(http.TrailerPrefix+"X-Late", r.Trailer.Get("X-Client-Sum"))
	})
	mux.HandleFunc("/timeout", func(w http.ResponseWriter, r *http.Request) {
		c := http.Client{Timeout: 30 * time.Millisecond}
		start := time.Now()
		_, err := c.Get(r.URL.Query().Get("url"))
		var ue *url.Error
		fmt.Fprint(w, errors.As(err, &ue) && ue.Timeout(), errors.Is(err, context.DeadlineExceeded), time.Since(start) < 5*time.Second)
	})
	mux.HandleFunc("/deadline", func(w http.ResponseWriter, r *http.Request) {
		end, ok := r.Context().Deadline()
		fmt.Fprint(w, ok, time.Until(end).Round(10*time.Second))
	})
	mux.HandleFunc("/rand", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, rand.Uint64(), " ", guest.Rand().Uint64() == guest.Rand().Uint64(), " ", guest.Rand().Uint64())
	})
	mux.HandleFunc("/next/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "good" {
			http.Error(w, "no key", http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Middleware", "was here")
		r.Header.Del("X-Key")
		r.Header["X-Added"] = []string{"1", "2"}
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/next")
		next.ServeHTTP(w, r)
		if _, err := fmt.Fprint(w, "late"); err == nil {
			panic("a write after next worked")
		}
	})
	mux.HandleFunc("/upper/", func(w http.ResponseWriter, r *http.Request) {
		r.Method, r.Host = "PUT", "other.test"
		r.Body = io.NopCloser(strings.NewReader("new body"))
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		w.Header().Set("X-Was", fmt.Sprint(rec.Code, rec.Header().Get("X-Next")))
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(bytes.ToUpper(rec.Body.Bytes()))
	})
	mux.HandleFunc("/drop/", func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		w.WriteHeader(http.StatusTeapot)
	})
	mux.HandleFunc("/twice/", func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		next.ServeHTTP(w, r)
	})
	return mux
}
