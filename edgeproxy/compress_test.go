package edgeproxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/perigee-edge/perigee"
)

func TestAccepted(t *testing.T) {
	for in, want := range map[string]coding{
		"":                             codingIdentity,
		"gzip":                         codingGzip,
		"x-gzip":                       codingGzip,
		"GZIP ; Q=0.5":                 codingGzip,
		"gzip, deflate, br, zstd":      codingZstd,
		"gzip, br":                     codingBrotli,
		"gzip;q=1, br;q=0.9, zstd;q=0": codingGzip,
		"zstd;q=0.1, br;q=0.2":         codingBrotli,
		"*":                            codingZstd,
		"*;q=0.5, zstd;q=0":            codingBrotli,
		"*;q=0":                        codingIdentity,
		"identity":                     codingIdentity,
		"identity;q=0.5, gzip;q=0.4":   codingIdentity,
		"identity;q=0.5, gzip;q=0.5":   codingGzip,
		"identity;q=0":                 codingIdentity,
		"identity;q=0, gzip":           codingGzip,
		"gzip;q=x":                     codingIdentity,
		"gzip;q=2":                     codingIdentity,
		"deflate, compress":            codingIdentity,
		",,":                           codingIdentity,
		"gzip\nbr;q=0.1":               codingGzip,
	} {
		if got := accepted(strings.Split(in, "\n")); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
	equal(t, "no field", accepted(nil), codingIdentity)
}

func TestCompressible(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/html; charset=utf-8": true, "TEXT/PLAIN": true, "text/event-stream": true, "application/json": true, "application/problem+json": true,
		"application/atom+xml": true, "image/svg+xml": true, "application/wasm": true, "font/ttf": true,
		"font/woff2": false, "image/png": false, "application/zip": false, "application/octet-stream": false, "video/mp4": false, "application/grpc": false, "": false,
	} {
		equal(t, kind, compressible(kind), want)
	}
}

// decoded returns a body as it was before it was encoded.
func decoded(t *testing.T, coding string, body []byte) string {
	t.Helper()
	var from io.Reader = bytes.NewReader(body)
	switch coding {
	case "gzip":
		z, err := gzip.NewReader(from)
		if err != nil {
			t.Fatal(err)
		}
		from = z
	case "br":
		from = brotli.NewReader(from)
	case "zstd":
		z, err := zstd.NewReader(from, zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		from = z
	}
	b, err := io.ReadAll(from)
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	return string(b)
}

// page is a guest that answers with a text of n bytes and the given fields, in pieces.
func page(n int, fields ...string) (func(w http.ResponseWriter, r *http.Request), string) {
	text := strings.Repeat("all work and no play makes jack a dull boy. ", n/44+1)[:n]
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"] = []string{"text/plain; charset=utf-8"}
		h["Content-Length"] = []string{fmt.Sprint(n)}
		for i := 0; i < len(fields); i += 2 {
			setOrDelete(h, fields[i], strings.Fields(fields[i+1]))
		}
		for rest := text; rest != ""; rest = rest[min(len(rest), 1000):] {
			_, _ = io.WriteString(w, rest[:min(len(rest), 1000)])
		}
	}, text
}

func asking(method, codings string) *http.Request {
	r := request(method, "/", nil)
	r.Header.Set("Accept-Encoding", codings)
	return r
}

// TestCompression answers with each coding, from here and from a peer, with encoders that are used again.
func TestCompression(t *testing.T) {
	guest, text := page(100_000, "Etag", `"v1"`, "Accept-Ranges", "bytes")
	there := newHops().on("wdc-1", func(*http.Request) (*http.Response, perigee.Load, error) {
		resp := response(200, int64(len(text)), strings.NewReader(text))
		resp.Header.Set("Content-Type", "text/plain")
		resp.Header.Set("Etag", `"v1"`)
		resp.Header.Set("Accept-Ranges", "bytes")
		return resp, perigee.Load{Slots: 4}, nil
	})
	for where, p := range map[string]*Proxy{
		"here":  newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet),
		"there": newProxy(t, newWorld("fra-1:absent", "wdc-1"), "fra-1", failing(nil), there, quiet),
	} {
		for range 3 {
			for _, coding := range []string{"zstd", "br", "gzip"} {
				rec, aborted := send(p, asking("GET", coding))
				h := rec.Header()
				if aborted || rec.Code != 200 || h.Get("Content-Encoding") != coding || h.Get("Content-Length") != "" || h.Get("Vary") != "Accept-Encoding" || h.Get("Etag") != `W/"v1"` || h.Get("Accept-Ranges") != "" {
					t.Fatalf("%s %s: %d %v", where, coding, rec.Code, h)
				}
				if rec.Body.Len() > len(text)/10 {
					t.Errorf("%s %s: %d bytes of %d", where, coding, rec.Body.Len(), len(text))
				}
				if decoded(t, coding, rec.Body.Bytes()) != text {
					t.Errorf("%s %s: another text", where, coding)
				}
			}
		}
		equal(t, where+": memory that is not given back", p.encoders.inUse.Load(), 0)
		equal(t, where+": counted", counter(t, p, "perigee_edgeproxy_encoded_responses_total", "br"), 3)
	}
}

// TestNotCompressed lists what goes as it is, and whether it is said that it could have been otherwise.
func TestNotCompressed(t *testing.T) {
	for name, c := range map[string]struct {
		size   int
		fields []string
		edit   func(*http.Request)
		vary   string
	}{
		"nobody asked":       {size: 4000, edit: func(r *http.Request) { r.Header.Del("Accept-Encoding") }, vary: "Accept-Encoding"},
		"short":              {size: minEncoded - 1},
		"another type":       {size: 4000, fields: []string{"Content-Type", "image/png"}},
		"no type":            {size: 4000, fields: []string{"Content-Type", ""}},
		"encoded":            {size: 4000, fields: []string{"Content-Encoding", "gzip"}},
		"no-transform":       {size: 4000, fields: []string{"Cache-Control", "public,NO-Transform"}},
		"a part":             {size: 4000, fields: []string{"Content-Range", "bytes_0-3999/9000"}},
		"a digest":           {size: 4000, fields: []string{"Repr-Digest", "sha-256=:AAAA:"}},
		"a range asked":      {size: 4000, edit: func(r *http.Request) { r.Header.Set("Range", "bytes=0-9999") }, vary: "Accept-Encoding"},
		"no-transform asked": {size: 4000, edit: func(r *http.Request) { r.Header.Set("Cache-Control", "no-transform") }, vary: "Accept-Encoding"},
		"varies already":     {size: 4000, fields: []string{"Vary", "origin,accept-encoding"}, edit: func(r *http.Request) { r.Header.Del("Accept-Encoding") }, vary: "origin,accept-encoding"},
		"varies always":      {size: 4000, fields: []string{"Vary", "*"}, edit: func(r *http.Request) { r.Header.Del("Accept-Encoding") }, vary: "*"},
	} {
		guest, text := page(c.size, c.fields...)
		p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet)
		r := asking("GET", "gzip, br, zstd")
		if c.edit != nil {
			c.edit(r)
		}
		rec, aborted := send(p, r)
		if aborted || rec.Body.String() != text || rec.Header().Get("Content-Length") != fmt.Sprint(c.size) {
			t.Errorf("%s: %v, %d bytes", name, rec.Header(), rec.Body.Len())
		}
		equal(t, name, strings.Join(rec.Header()["Vary"], ","), c.vary)
	}
	guest, text := page(4000)
	off := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet, func(c *Config) { c.DisableCompression = true })
	rec, _ := send(off, asking("GET", "gzip"))
	if rec.Body.String() != text || rec.Header().Get("Vary") != "" {
		t.Errorf("turned off: %v", rec.Header())
	}
}

// TestCompressionOfHead gives HEAD the head that GET has, and 304 the entity tag that the client has.
func TestCompressionOfHead(t *testing.T) {
	guest, _ := page(4000, "Etag", `"v1"`)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet)
	rec, _ := send(p, asking("HEAD", "br"))
	if h := rec.Header(); rec.Body.Len() > 0 || h.Get("Content-Encoding") != "br" || h.Get("Etag") != `W/"v1"` || h.Get("Content-Length") != "" {
		t.Errorf("HEAD: %v, %d bytes", rec.Header(), rec.Body.Len())
	}
	p = newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"v1"`)
		w.WriteHeader(http.StatusNotModified)
	}), newHops(), quiet)
	for has, want := range map[string]string{`W/"v1"`: `W/"v1"`, `"v1"`: `"v1"`, `"v0", W/"v1"`: `W/"v1"`} {
		r := asking("GET", "br")
		r.Header.Set("If-None-Match", has)
		rec, _ := send(p, r)
		equal(t, "304 for "+has, rec.Header().Get("Etag"), want)
		equal(t, "coding", rec.Header().Get("Content-Encoding"), "")
	}
}

// TestCompressionCutOff loses a response amid its body: it is cut off, not ended, and its encoder is free.
func TestCompressionCutOff(t *testing.T) {
	guest, _ := page(4000, "Content-Length", "5000")
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet)
	if _, aborted := send(p, asking("GET", "gzip")); !aborted {
		t.Error("a body that is short was ended as if it were whole")
	}
	equal(t, "memory that is not given back", p.encoders.inUse.Load(), 0)
}

// TestCompressionMemory goes on without when the memory for encoders is taken.
func TestCompressionMemory(t *testing.T) {
	guest, text := page(4000)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet)
	p.encoders.most = encoderSize[codingZstd]
	rec, _ := send(p, asking("GET", "zstd"))
	equal(t, "while there is some", rec.Header().Get("Content-Encoding"), "zstd")
	held := p.encoders.take(codingZstd, io.Discard)
	rec, _ = send(p, asking("GET", "zstd"))
	if rec.Header().Get("Content-Encoding") != "" || rec.Body.String() != text {
		t.Errorf("without memory: %v", rec.Header())
	}
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_encoded_responses_total", "none"), 1)
	p.encoders.give(codingZstd, held)
	equal(t, "given back", p.encoders.inUse.Load(), 0)
}

// TestCompressedStream reads each event before the guest sends the next, through each coding.
func TestCompressedStream(t *testing.T) {
	ca := newCA(t)
	next := make(chan bool)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			<-next
		}
	}), newHops(), withTLS(t, ca), quiet)
	run(t, p)
	for _, h2 := range []bool{false, true} {
		for _, coding := range []string{"gzip", "br", "zstd"} {
			r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
			r.Header.Set("Accept-Encoding", coding)
			resp, err := client(t, p, ca, h2).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "coding", resp.Header.Get("Content-Encoding"), coding)
			var from io.Reader
			switch coding {
			case "gzip":
				from, err = gzip.NewReader(resp.Body)
			case "br":
				from = brotli.NewReader(resp.Body)
			case "zstd":
				var z *zstd.Decoder
				z, err = zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
				defer z.Close()
				from = z
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(from)
			for i := range 5 {
				line, err := lines.ReadString('\n')
				if err != nil || line != fmt.Sprintf("data: %d\n", i) {
					t.Fatalf("%s: event %d is %q (%v)", coding, i, line, err)
				}
				_, _ = lines.ReadString('\n')
				next <- true
			}
			if _, err := lines.ReadByte(); err != io.EOF {
				t.Errorf("%s: %v at the end", coding, err)
			}
			resp.Body.Close()
		}
	}
}

// TestCompressionAtOnce encodes many responses at the same time.
func TestCompressionAtOnce(t *testing.T) {
	guest, text := page(50_000)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(guest), newHops(), quiet)
	p.encoders.most = 4 << 20 // some go without
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			rec, _ := send(p, asking("GET", []string{"zstd", "br", "gzip"}[i%3]))
			if decoded(t, rec.Header().Get("Content-Encoding"), rec.Body.Bytes()) != text {
				t.Error("another text")
			}
		})
	}
	wg.Wait()
	equal(t, "memory that is not given back", p.encoders.inUse.Load(), 0)
}
