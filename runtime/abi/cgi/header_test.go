package cgi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// printing is a program that prints a text, in pieces of a size.
type printing struct {
	api.Function
	to    io.Writer
	text  string
	piece int
}

var errUnwound = errors.New("unwound")

// Call prints. A panic of the writer is an error, as the engine makes of it.
func (p printing) Call(context.Context, ...uint64) (_ []uint64, err error) {
	defer func() {
		if recover() != nil {
			err = errUnwound
		}
	}()
	for text := p.text; text != ""; {
		n := min(p.piece, len(text))
		if _, err := io.WriteString(p.to, text[:n]); err != nil {
			return nil, err
		}
		text = text[n:]
	}
	return nil, nil
}

// answer returns what becomes of what a program prints.
func answer(text string, piece int) (*httptest.ResponseRecorder, error) {
	w := httptest.NewRecorder()
	c := newCall(w, httptest.NewRequest("GET", "/", nil))
	err := c.Serve(context.Background(), printing{to: c.Stdout(), text: text, piece: piece})
	if c.Err() != nil {
		return w, c.Err()
	}
	if err == nil {
		err = c.Answer.Finish()
	}
	return w, err
}

// TestResponse parses responses, whole and byte by byte.
func TestResponse(t *testing.T) {
	const ct = "Content-Type: text/plain\n"
	for text, want := range map[string]string{
		ct + "\nbody":                               "200 body",
		"Content-Type: text/plain\r\n\r\nbody":      "200 body",
		"content-type:text/plain\r\n\nbo\r\n\r\ndy": "200 bo\r\n\r\ndy",
		ct + "\n":                                     "200 ",
		ct + "\n\x00\xff\n":                           "200 \x00\xff\n",
		"Status: 404 Not Found\n" + ct + "\nno":       "404 no",
		"Status: 404\n\nno":                           "404 no",
		"Status: 404 \n\nno":                          "404 no",
		"status:599 x\n\n":                            "599 ",
		"Location: /x?y\n\n":                          "302 ",
		"Location: https://e.org/\nStatus: 301 M\n\n": "301 ",
		"Location: https://e.org/\n" + ct + "\nthere": "302 there",
		"X-CGI-Thing: 1\n" + ct + "\nbody":            "200 body",
		ct + "Content-Length: 4\n\nbody":              "200 body",
		ct + "Content-Length: 9\n\nbody":              "200 body", // it is short enough to be counted
		ct + "X-Empty:\n\nbody":                       "200 body",

		"":                                string(abi.NoResponse),
		"\n":                              string(abi.BadResponse),
		"\r\n\r\n":                        string(abi.BadResponse),
		"hello\n":                         string(abi.BadResponse),
		"hello":                           string(abi.BadResponse),
		ct:                                string(abi.BadResponse),
		ct + "\r":                         string(abi.BadResponse),
		"X-A: 1\n\nbody":                  string(abi.BadResponse),
		ct + "no colon\n\n":               string(abi.BadResponse),
		ct + " folded\n\n":                string(abi.BadResponse),
		ct + "X-A : 1\n\n":                string(abi.BadResponse),
		ct + "X A: 1\n\n":                 string(abi.BadResponse),
		ct + ": 1\n\n":                    string(abi.BadResponse),
		"\xff: 1\n\n":                     string(abi.BadResponse),
		ct + ct + "\n":                    string(abi.BadResponse),
		"Status: 200\nStatus: 200\n\n":    string(abi.BadResponse),
		"Location: /a\nLocation: /b\n\n":  string(abi.BadResponse),
		"Location:\n\n":                   string(abi.BadResponse),
		"Status: \n\n":                    string(abi.BadResponse),
		"Status: OK\n\n":                  string(abi.BadResponse),
		"Status: 0200\n\n":                string(abi.BadResponse),
		"Status: 20\n\n":                  string(abi.BadResponse),
		"Status: 2000\n\n":                string(abi.BadResponse),
		"Status: 20x\n\n":                 string(abi.BadResponse),
		"Status: +20\n\n":                 string(abi.BadResponse),
		"Status: 200OK\n\n":               string(abi.BadResponse),
		"Status: 101 Switching\n\n":       string(abi.BadResponse),
		"Status: 600\n\n":                 string(abi.BadResponse),
		"HTTP/1.1 200 OK\r\n" + ct + "\n": string(abi.BadResponse),
		strings.Repeat("x", 1<<20):        string(abi.ResponseTooLarge),
		strings.Repeat("X-A: 1\n", 51) + ct + "\n":                 string(abi.ResponseTooLarge),
		"X-A: " + strings.Repeat("x", 8<<10) + "\n\n":              string(abi.ResponseTooLarge),
		strings.Repeat("X-CGI-A: 1\n", 2000) + "\n":                string(abi.ResponseTooLarge),
		ct + "\n" + strings.Repeat("x", 4<<20+1):                   string(abi.ResponseTooLarge),
		ct + "Content-Length: 2\n\n" + strings.Repeat("x", 50_000): string(abi.BadResponse),
	} {
		for _, piece := range []int{1, 7, 1 << 30} {
			if piece < 1<<30 && len(text) > 1<<21 {
				continue
			}
			w, err := answer(text, piece)
			got := fmt.Sprint(w.Code, " ", w.Body)
			var guest *abi.GuestError
			if errors.As(err, &guest) {
				got = string(guest.Kind)
			} else if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%.60q in pieces of %d: %.60q (%v), want %.60q", text, piece, got, err, want)
			}
		}
	}
	w, err := answer("Content-Type: a/b\nSet-Cookie: a=1\nSet-Cookie:  b=2 \nX-CGI-X: 1\nConnection: close\nPerigee-Region: fra\n\n", 3)
	if h := w.Header(); err != nil || fmt.Sprint(h) != fmt.Sprint(http.Header{"Content-Length": {"0"}, "Content-Type": {"a/b"}, "Set-Cookie": {"a=1", "b=2"}}) {
		t.Errorf("%v, %v", h, err)
	}
}

// TestIdle checks when something leaves: not before the header is complete, and then with each wait.
func TestIdle(t *testing.T) {
	w := httptest.NewRecorder()
	c := newCall(w, httptest.NewRequest("POST", "/", strings.NewReader("in")))
	wait := map[string]func(){
		"idle": c.Idle,
		"read": func() { _, _ = c.Stdin().Read(make([]byte, 1)) },
	}
	state := func() string { return fmt.Sprint(c.Answer.Sent(), " ", w.Body) }
	for _, step := range []struct {
		write, wait, want string
		flushed           bool
	}{
		{"Content-Type: a/b\n", "idle", "false ", false},
		{"\n", "", "false ", false},
		{"", "read", "true ", true},
		{"one ", "", "true one ", false}, // in the server's buffer
		{"two", "idle", "true one two", true},
		{"", "idle", "true one two", false},
		{" three", "read", "true one two three", true},
		{"", "read", "true one two three", false},
	} {
		w.Flushed = false
		_, _ = io.WriteString(c.Stdout(), step.write)
		if step.wait != "" {
			wait[step.wait]()
		}
		if got := state(); got != step.want || w.Flushed != step.flushed {
			t.Errorf("after %q and %s: %s, flushed %v; want %s, %v", step.write, step.wait, got, w.Flushed, step.want, step.flushed)
		}
	}
}

// TestBrokenInput ends the guest's call when the client is gone.
func TestBrokenInput(t *testing.T) {
	gone := errors.New("gone")
	r := httptest.NewRequest("POST", "/", nil)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), errReader{gone}))
	c := newCall(httptest.NewRecorder(), r)
	if n, err := c.Stdin().Read(make([]byte, 9)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the call goes on")
			}
		}()
		_, _ = c.Stdin().Read(make([]byte, 9))
	}()
	if !errors.Is(c.Err(), gone) {
		t.Errorf("%v", c.Err())
	}
	r.Body = nil
	if _, err := newCall(httptest.NewRecorder(), r).Stdin().Read(make([]byte, 9)); err != io.EOF {
		t.Errorf("no body: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// FuzzResponse prints anything, and the same in pieces: it must make no difference, and what is answered
// is a response.
func FuzzResponse(f *testing.F) {
	for _, text := range []string{
		"Content-Type: text/plain\r\n\r\nbody", "Status: 404 Not Found\n\nx", "Location: /x\nX-A: b\n\n", "Status: 99\n\n", ": \n\n", "\r\r\n", "Content-Length: 3\n\nbody",
	} {
		f.Add(text, 3)
	}
	f.Fuzz(func(t *testing.T, text string, piece int) {
		whole, err := answer(text, 1<<30)
		pieces, err2 := answer(text, max(1, piece))
		if fmt.Sprint(err) != fmt.Sprint(err2) || whole.Code != pieces.Code || fmt.Sprint(whole.Header()) != fmt.Sprint(pieces.Header()) || whole.Body.String() != pieces.Body.String() {
			t.Fatalf("%q whole: %d %v %q %v\nin pieces: %d %v %q %v", text, whole.Code, whole.Header(), whole.Body, err, pieces.Code, pieces.Header(), pieces.Body, err2)
		}
		var guest *abi.GuestError
		switch {
		case err != nil && !errors.As(err, &guest):
			t.Fatalf("%q: %v", text, err)
		case err == nil && (whole.Code < 200 || whole.Code > 599):
			t.Fatalf("%q: status %d", text, whole.Code)
		}
	})
}
