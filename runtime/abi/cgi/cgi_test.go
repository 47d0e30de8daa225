package cgi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// TestProgram runs a program that knows nothing of us.
func TestProgram(t *testing.T) {
	wasm, err := program()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, wasm)
	srv := h.server()
	client := srv.Client()
	client.Timeout = 30 * time.Second
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	send := func(t *testing.T, req *http.Request) (*http.Response, string) {
		t.Helper()
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("%v after %d bytes", err, len(b))
		}
		return res, string(b)
	}
	get := func(t *testing.T, path string, query ...string) (*http.Response, string) {
		t.Helper()
		q := url.Values{}
		for i := 0; i < len(query); i += 2 {
			q.Set(query[i], query[i+1])
		}
		req, _ := http.NewRequest(http.MethodGet, srv.URL+path+"?"+q.Encode(), nil)
		return send(t, req)
	}

	t.Run("request", func(t *testing.T) {
		req, _ := http.NewRequest(http.MethodPut, srv.URL+"/request?x=%20y&z", strings.NewReader("12345"))
		req.Header = http.Header{"X-Two": {"a", "b"}, "Cookie": {"a=1; b=2"}, "Content-Type": {"text/x"}, "Proxy": {"http://evil"}, "Authorization": {"Bearer t"}}
		req.Host = "fn.example.com:8443"
		_, body := send(t, req)
		for _, want := range []string{
			"PUT http://fn.example.com:8443/request?x=%20y&z HTTP/1.1 fn.example.com:8443 127.0.0.1:", " 5 5 <nil>\n",
			"[a, b] [a=1; b=2] [text/x] good day [program]\n", "\nHTTP_AUTHORIZATION=Bearer t\n", "\nCONTENT_LENGTH=5\n", "\nGATEWAY_INTERFACE=CGI/1.1\n",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in\n%s", want, body)
			}
		}
		for _, not := range []string{"evil", "forged", "root", "HTTP_CONTENT"} {
			if strings.Contains(body, not) {
				t.Errorf("%q is in\n%s", not, body)
			}
		}
	})
	t.Run("answer", func(t *testing.T) {
		res, body := get(t, "/answer", "status", "404")
		if res.StatusCode != 404 || body != "answered" || res.ContentLength != 8 || res.Header.Get("Content-Type") != "text/x-test; charset=utf-8" || len(res.Header["Set-Cookie"]) != 2 {
			t.Errorf("%s %v %q", res.Status, res.Header, body)
		}
	})
	t.Run("redirect", func(t *testing.T) {
		for _, to := range []string{"https://example.org/x?y", "/local/path?q"} {
			res, _ := get(t, "/answer", "status", "303", "to", to)
			if res.StatusCode != 303 || res.Header.Get("Location") != to {
				t.Errorf("%s %v", res.Status, res.Header)
			}
			res, _ = get(t, "/raw", "text", "Location: "+to+"\n\n")
			if res.StatusCode != 302 || res.Header.Get("Location") != to {
				t.Errorf("without Status: %s %v", res.Status, res.Header)
			}
		}
	})
	t.Run("binary", func(t *testing.T) {
		for _, n := range []int{0, 1, 4096, 1 << 20} {
			_, body := get(t, "/binary", "n", fmt.Sprint(n))
			want := make([]byte, n)
			for i := range want {
				want[i] = byte(i)
			}
			if body != string(want) {
				t.Errorf("%d bytes came back as %d", n, len(body))
			}
		}
	})
	t.Run("echo", func(t *testing.T) {
		// More than any buffer on the way, each part sent when the one before has come back.
		const part, parts = 16 << 10, 150
		in, out := io.Pipe()
		req, _ := http.NewRequest(http.MethodPost, srv.URL+"/echo", in)
		req.ContentLength = part * parts
		src := rand.NewChaCha8([32]byte{1})
		chunk := make([]byte, part)
		_, _ = src.Read(chunk)
		go func() { _, _ = out.Write(chunk) }()
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		back := make([]byte, part)
		for i := range parts {
			if i > 0 {
				_, _ = src.Read(chunk)
				if _, err := out.Write(chunk); err != nil {
					t.Fatalf("part %d: %v", i, err)
				}
			}
			if _, err := io.ReadFull(res.Body, back); err != nil || !bytes.Equal(back, chunk) {
				t.Fatalf("part %d: %v", i, err)
			}
		}
		_ = out.Close()
		if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
			t.Errorf("%d bytes more, %v", len(rest), err)
		}
	})
	t.Run("events", func(t *testing.T) {
		began := time.Now()
		res, err := client.Get(srv.URL + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		times := []time.Duration{time.Since(began)} // of the header, which comes before an event
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "data: ") {
				times = append(times, time.Since(began))
			}
		}
		if len(times) != 4 || lines.Err() != nil {
			t.Fatalf("%v, %v", times, lines.Err())
		}
		for i := range 3 {
			if d := times[i+1] - times[i]; d < 20*time.Millisecond {
				t.Errorf("event %d came %v after what is before it: %v", i, d, times)
			}
		}
	})
	t.Run("ends", func(t *testing.T) {
		const ok = "Content-Type: text/plain\r\n\r\nhi"
		for _, tc := range []struct {
			path, text, code string
			status           int
			kind, detail     string
		}{
			{"/exit", ok, "0", 200, "", "hi"},
			{"/exit", ok, "3", 502, "trap", `it exited with code 3 ("it could not go on")`},
			{"/exit", "", "3", 502, "trap", `it exited with code 3 ("it could not go on")`},
			{"/exit", "", "0", 502, "no-response", `it ended and wrote nothing`},
			{"/exit", "Content-Type: text/plain\n", "0", 502, "bad-response", `it ended within the header`},
			{"/panic", "", "", 502, "trap", `it exited with code 2 (panic: as asked`},
			{"/forever", "X-Y: z\n", "", 502, "response-too-large", "headers"},
			{"/forever", "X", "", 502, "response-too-large", "headers of more than"},
			{"/raw", "HTTP/1.1 200 OK\r\n\r\n", "", 502, "bad-response", `line "HTTP/1.1 200 OK" of the header`},
			{"/raw", ok, "", 200, "", "hi"},
			{"/nothing", "", "", 404, "", "404 page not found\n"},
		} {
			res, body := get(t, tc.path, "text", tc.text, "code", tc.code)
			if res.StatusCode != tc.status || res.Header.Get("Kind") != tc.kind || !strings.Contains(body, tc.detail) {
				t.Errorf("%s %q %s: %s %s %q", tc.path, tc.text, tc.code, res.Status, res.Header.Get("Kind"), body)
			}
		}
		if log := h.log.String(); !strings.Contains(log, `level=WARN msg=guest line="it could not go on"`) {
			t.Errorf("log:\n%s", log)
		}
	})
	t.Run("cut", func(t *testing.T) {
		// The response has left in part when the program fails.
		for path, text := range map[string]string{
			"/exit?wait=1&code=3": "Content-Type: text/plain\n\nhi",
			"/exit?code=3":        "Content-Type: text/plain\n\n" + strings.Repeat("x", 100_000),
			"/forever?":           "Content-Type: text/plain\n\n" + strings.Repeat("x", 1000),
		} {
			res, err := client.Get(srv.URL + path + "&text=" + url.QueryEscape(text))
			if err != nil {
				continue // it was cut before the header came
			}
			n, err := io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if err == nil {
				t.Errorf("%s: a response of %d bytes looks whole: %s", path, n, res.Status)
			}
		}
	})
	t.Run("head", func(t *testing.T) {
		res, err := client.Head(srv.URL + "/binary?n=1000")
		if err != nil || res.StatusCode != 200 || res.ContentLength != 1000 {
			t.Errorf("%v %v", res, err)
		}
	})
	t.Run("unknown length", func(t *testing.T) {
		req, _ := http.NewRequest(http.MethodPost, srv.URL+"/request", io.MultiReader(strings.NewReader("12345")))
		if _, body := send(t, req); strings.Contains(body, "CONTENT_LENGTH") {
			t.Errorf("%s", body)
		}
	})
}

// TestC runs a program in C, which streams both ways and reads files (its source is beside it).
func TestC(t *testing.T) {
	wasm, err := os.ReadFile("testdata/upper.wasm")
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, wasm)
	srv := h.server()
	in, out := io.Pipe()
	req, _ := http.NewRequest(http.MethodPost, srv.URL+"/some/path", in)
	client := srv.Client()
	client.Timeout = 30 * time.Second
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	line := func() string {
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%q, %v", s, err)
		}
		return s
	}
	if got := line() + line() + line(); got != "POST /some/path program 1\na.txt 5\nb.txt 3\n" {
		t.Errorf("%q", got)
	}
	for _, s := range []string{"first\n", "second\n"} { // the second is sent when the first has come back
		if _, err := io.WriteString(out, s); err != nil {
			t.Fatal(err)
		}
		if got := line(); got != strings.ToUpper(s) {
			t.Errorf("%q", got)
		}
	}
	_ = out.Close()
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if log := h.log.String(); !strings.Contains(log, `line="write a file: Read-only file system"`) {
		t.Errorf("log: %s", log)
	}
}
