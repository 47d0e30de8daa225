package edgeproxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func bodyOf(src io.Reader) *body {
	return newBody(&http.Request{Body: io.NopCloser(src)}, &stall{}, -1)
}

func TestBodyReplay(t *testing.T) {
	text := strings.Repeat("0123456789", 4000) // 40 KB
	b := bodyOf(iotest.OneByteReader(strings.NewReader(text)))
	equal(t, "before", b.state(), bodyUntouched)
	first := b.view()
	if _, err := io.CopyN(io.Discard, first, 15_000); err != nil {
		t.Fatal(err)
	}
	equal(t, "in the middle", b.state(), bodyKept)
	first.Close()
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("a closed view can be read")
	}
	for range 2 { // partly kept, then wholly
		v := b.view()
		got, err := io.ReadAll(v)
		if err != nil || string(got) != text {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		v.Close()
	}
	equal(t, "at the end", b.state(), bodyKept)
	equal(t, "read to the end", b.atEnd(), true)
}

func TestBodyTooLargeToKeep(t *testing.T) {
	b := bodyOf(bytes.NewReader(make([]byte, maxReplay+1)))
	v := b.view()
	n, err := io.Copy(io.Discard, v)
	if n != maxReplay+1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	equal(t, "state", b.state(), bodyGone)
	if _, err := io.ReadAll(b.view()); !errors.Is(err, errBodyGone) {
		t.Errorf("a second view: %v", err)
	}
	if b.kept != nil {
		t.Error("memory is held for a body that can't be sent again")
	}
}

func TestBodySettledKeepsNoMore(t *testing.T) {
	b := bodyOf(strings.NewReader("hello"))
	v := b.view()
	_, _ = io.CopyN(io.Discard, v, 2)
	b.settled()
	rest, err := io.ReadAll(v)
	if string(rest) != "llo" || err != nil || b.kept != nil {
		t.Errorf("got %q, %v, kept %q", rest, err, b.kept)
	}
}

func TestBodyFailures(t *testing.T) {
	for _, c := range []struct{ src, want error }{
		{os.ErrDeadlineExceeded, errBodyStalled},
		{io.ErrUnexpectedEOF, errBodyBroken},
	} {
		b := bodyOf(io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(c.src)))
		for range 2 { // the error stays
			if got, err := io.ReadAll(b.view()); !errors.Is(err, c.want) || string(got) != "hel" {
				t.Errorf("%v: got %q, %v", c.src, got, err)
			}
		}
		equal(t, "state", b.state(), bodyFailed)
	}
}

// TestBodyOldReader has a view whose read is under way when the next try begins: what that read
// gets must not be lost.
func TestBodyOldReader(t *testing.T) {
	pr, pw := io.Pipe()
	b := bodyOf(pr)
	old := b.view()
	reading, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		close(reading)
		_, _ = io.ReadFull(old, make([]byte, 3))
	}()
	<-reading
	eventually(t, "the old view reads", func() bool {
		if b.mu.TryLock() {
			b.mu.Unlock()
			return false
		}
		return true
	})
	equal(t, "not at the end while reading", b.atEnd(), false)
	old.Close()
	fresh := b.view()
	go func() {
		_, _ = pw.Write([]byte("abc"))
		_, _ = pw.Write([]byte("def"))
		pw.Close()
	}()
	got, err := io.ReadAll(fresh)
	if string(got) != "abcdef" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	<-done
}

func TestNoBody(t *testing.T) {
	var b *body
	equal(t, "state", b.state(), bodyUntouched)
	equal(t, "at the end", b.atEnd(), true)
	equal(t, "view", b.view() == http.NoBody, true)
	b.settled()
	if b.err() != nil {
		t.Error(b.err())
	}
}

func TestBodyTrailer(t *testing.T) {
	trailer := http.Header{"X-Sum": nil, "Perigee-Region": nil, "Authorization": nil}
	src := &trailing{r: strings.NewReader("x"), h: trailer}
	r := &http.Request{Body: io.NopCloser(src), Trailer: trailer}
	b := newBody(r, &stall{}, -1)
	if len(trailer) != 1 {
		t.Errorf("announced: %v", trailer)
	}
	if _, err := io.ReadAll(b.view()); err != nil {
		t.Fatal(err)
	}
	if len(trailer) != 1 || trailer.Get("X-Sum") != "1" {
		t.Errorf("at the end: %v", trailer)
	}
}

// trailing fills in trailer fields at its end, as net/http does, wanted or not.
type trailing struct {
	r io.Reader
	h http.Header
}

func (s *trailing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err == io.EOF {
		s.h.Set("X-Sum", "1")
		s.h.Set("Perigee-Region", "forged")
		s.h.Set("X-Forwarded-For", "forged")
	}
	return n, err
}
