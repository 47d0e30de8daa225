package peerlink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestHopTrailers(t *testing.T) {
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum, X-Other")
		if _, announced := r.Trailer["X-Up"]; !announced {
			t.Errorf("trailer not announced: %v", r.Trailer)
		}
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Up")+"!")
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
		w.Header().Set(http.TrailerPrefix+"Content-Length", "7")
	})
	r := request(t, "POST", "http://f/", "body")
	r.Trailer = http.Header{"X-Up": nil}
	r.Body = &atEOF{Reader: r.Body, do: func() { r.Trailer["X-Up"] = []string{"sum"} }}
	r.ContentLength = -1
	resp, err := a.RoundTripHop("b", r)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := resp.Trailer["X-Sum"]; !ok || resp.Trailer.Get("X-Sum") != "" || resp.Header["Trailer"] != nil {
		t.Errorf("before the body: trailer %v, header %v", resp.Trailer, resp.Header)
	}
	if body := readBody(t, resp); body != "body" {
		t.Errorf("body %q", body)
	}
	if resp.Trailer.Get("X-Sum") != "sum!" || resp.Trailer.Get("X-Late") != "late" || len(resp.Trailer) != 3 {
		t.Errorf("trailer %v", resp.Trailer)
	}
}

// atEOF calls do when its reader ends.
type atEOF struct {
	io.Reader
	do func()
}

func (r *atEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.do()
	}
	return n, err
}

func (r *atEOF) Close() error { return nil }

func TestHopStreamsBothWays(t *testing.T) {
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.EnableFullDuplex(), rc.SetReadDeadline(time.Now().Add(time.Minute)), rc.SetWriteDeadline(time.Now().Add(time.Minute))); err != nil {
			t.Error(err)
		}
		_ = rc.Flush() // the requester waits for the head before it feeds the body
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(bytes.ToUpper(b[:n]))
			if err := rc.Flush(); err != nil {
				t.Error(err)
			}
			if err != nil {
				return
			}
		}
	})
	up, feed := io.Pipe()
	r := request(t, "POST", "http://f/", "x")
	r.Body, r.ContentLength = up, -1
	resp, err := a.RoundTripHop("b", r)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for i := range 20 {
		ping := fmt.Sprintf("ping %d", i)
		if _, err := io.WriteString(feed, ping); err != nil {
			t.Fatal(err)
		}
		if n, err := resp.Body.Read(b); err != nil || string(b[:n]) != strings.ToUpper(ping) {
			t.Fatalf("got %q %v", b[:n], err)
		}
	}
	_ = feed.Close()
	if _, err := resp.Body.Read(b); err != io.EOF {
		t.Fatalf("end: %v", err)
	}
}

func TestHopLargeBodies(t *testing.T) {
	const size = 64 << 20
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if n != size || err != nil {
			t.Errorf("worker read %d bytes: %v", n, err)
		}
		if n, err := io.Copy(w, io.LimitReader(zeros{}, size)); n != size || err != nil {
			t.Errorf("worker wrote %d bytes: %v", n, err)
		}
	})
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
	}()
	r := request(t, "POST", "http://f/", "x")
	r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, size)), size
	resp, err := a.RoundTripHop("b", r)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if n != size || err != nil {
		t.Errorf("requester read %d bytes: %v", n, err)
	}
	close(stop)
	if most := <-peak; most > size {
		t.Errorf("heap grew to %d MiB for bodies of 64 MiB", most>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
