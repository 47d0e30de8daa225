package peerlink

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestRequestHeadRoundTrip(t *testing.T) {
	for _, h := range []requestHead{
		{size: -1, method: "GET", target: "/", header: http.Header{}},
		{
			flags: flagAnswerFirst | flagNoBody, timeout: 3 * time.Second, size: 1 << 40, method: "M-SEARCH", authority: "[::1]:80", target: "*",
			header: http.Header{"A": {"", "2"}, "Set-Cookie": {"x=y; \ttab", "ü"}},
		},
	} {
		got, err := decodeRequest(string(h.append(nil)))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("got %+v %v, want %+v", got, err, h)
		}
	}
}

func TestResponseHeadRoundTrip(t *testing.T) {
	for _, h := range []responseHead{
		{status: 200, size: -1, header: http.Header{}},
		{status: 999, size: 1<<61 - 2, header: http.Header{"A": {"b"}}},
	} {
		b, at := h.append(nil)
		got, err := decodeResponse(string(b))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("got %+v %v, want %+v", got, err, h)
		}
		patchSize(b, at, 7)
		if got, err = decodeResponse(string(b)); err != nil || got.size != 7 {
			t.Errorf("patched: %+v %v", got, err)
		}
	}
}

func TestDecodeRefusesFields(t *testing.T) {
	field := func(name, value string) string {
		return "\x01" + string(appendString(appendString(nil, name), value))
	}
	for name, s := range map[string]string{
		"empty name": field("", "x"), "space in name": field("a b", "x"), "newline": field("A", "x\ny"), "nul": field("A", "\x00"), "delete": field("A", "\x7f"),
		"count beyond the payload": "\x05", "too many": "\x41\x01" + strings.Repeat("\x01A\x00", 257), "cut off": "\x01\x01", "no count": "",
	} {
		c := cursor{s: s}
		if h := c.fields(); c.err == nil {
			t.Errorf("%s: got %v", name, h)
		}
	}
	c := cursor{s: field("x-lower", "v")}
	if h := c.fields(); h.Get("X-Lower") != "v" {
		t.Errorf("name is not made canonical: %v", h)
	}
}

func TestLoadRoundTrip(t *testing.T) {
	for _, l := range []perigee.Load{{}, {InFlight: 1}, {InFlight: 1<<31 - 1, Slots: 1<<31 - 1, Service: 1<<31 - 1}, {Service: 7}} {
		c := cursor{s: string(appendLoad(nil, l))}
		if got := c.load(); got != l || c.err != nil || c.s != "" {
			t.Errorf("got %v %v, want %v", got, c.err, l)
		}
	}
	c := cursor{s: string(appendLoad(nil, perigee.Load{InFlight: -5, Slots: 2}))}
	if got := c.load(); got != (perigee.Load{Slots: 2}) {
		t.Errorf("negative load became %v", got)
	}
}

// TestFrameWriterReader sends writes of many sizes through frames and reads them back in odd pieces.
func TestFrameWriterReader(t *testing.T) {
	var b, want bytes.Buffer
	w := frameWriter{w: &b}
	w.frame(frameRequest, func(b []byte) []byte { return append(b, strings.Repeat("h", 60<<10)...) })
	for i, size := range []int{0, 1, 100, dataChunk - 1, dataChunk, dataChunk + 1, 3 * dataChunk, 5} {
		p := bytes.Repeat([]byte{byte('a' + i)}, size)
		want.Write(p)
		if n, err := w.data(p); n != size || err != nil {
			t.Fatal(n, err)
		}
		if i%2 == 0 {
			if err := w.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.room() // an unused frame is taken back
	w.frame(frameEnd, func(b []byte) []byte { return append(b, 0, 0) })
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b.Bytes()), "bytes": iotest.OneByteReader(bytes.NewReader(b.Bytes())), "eof with data": iotest.DataErrReader(bytes.NewReader(b.Bytes()))} {
		fr := newFrameReader(r)
		typ, size, err := fr.next()
		if err != nil || typ != frameRequest {
			t.Fatal(name, typ, err)
		}
		if s, err := fr.payload(size); err != nil || len(s) != 60<<10 {
			t.Fatal(name, len(s), err)
		}
		var got bytes.Buffer
		buf := make([]byte, 5000)
		for {
			if typ, size, err = fr.next(); err != nil || typ != frameData {
				break
			}
			for fr.left > 0 {
				n, err := fr.data(buf)
				if err != nil {
					t.Fatal(name, err)
				}
				got.Write(buf[:n])
			}
		}
		if typ != frameEnd || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%s: type %v, %d bytes, want %d, %v", name, typ, got.Len(), want.Len(), err)
		}
		if _, _, err := readEndFrame(&fr, size); err != nil {
			t.Errorf("%s: end: %v", name, err)
		}
		fr.release()
		if _, _, err := fr.next(); err != io.EOF {
			t.Errorf("%s: after release: %v", name, err)
		}
	}
}

// TestFrameWriterAfterError shows that nothing follows what could not be written: the end of the
// stream would make a cut body look whole.
func TestFrameWriterAfterError(t *testing.T) {
	broken := &breakable{fail: true}
	w := frameWriter{w: broken}
	if _, err := w.data(make([]byte, 2*dataChunk)); err == nil {
		t.Error("no error")
	}
	broken.fail = false
	w.frame(frameEnd, func(b []byte) []byte { return append(b, 0, 0) })
	if err := w.flush(); err == nil || broken.n != 0 {
		t.Errorf("wrote %d bytes after an error: %v", broken.n, err)
	}
}

type breakable struct {
	fail bool
	n    int
}

func (b *breakable) Write(p []byte) (int, error) {
	if b.fail {
		return 0, io.ErrClosedPipe
	}
	b.n += len(p)
	return len(p), nil
}

// FuzzFrames reads hostile input as each of the roles would.
func FuzzFrames(f *testing.F) {
	head := requestHead{flags: flagAnswerFirst, timeout: time.Second, size: 3, method: "POST", authority: "f", target: "/x?y", header: http.Header{"A": {"b"}}}
	response := responseHead{status: 200, size: -1, header: http.Header{"Trailer": {"X"}}}
	payload, _ := response.append(nil)
	f.Add([]byte(frame(frameRequest, string(head.append(nil))) + frame(frameData, "abc") + frame(frameEnd, "\x01\x02\x03\x01\x01X\x01y")))
	f.Add([]byte(frame(frameAccepted, "\x01\x02\x03") + frame(frameResponse, string(payload)) + frame(frameData, "abc")))
	f.Add([]byte(frame(frameRefused, "\x10\x00") + frame(frameRaw, "\x01") + frame(0x83, "skip") + frame(frameInterim, "\x40\x67\x00")))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := newFrameReader(bytes.NewReader(b))
		defer fr.release()
		for frames := 0; ; frames++ {
			if frames > len(b) {
				t.Fatal("more frames than bytes")
			}
			typ, size, err := fr.next()
			if err != nil {
				return
			}
			if typ == frameData {
				if _, err := io.CopyN(io.Discard, readerFunc(fr.data), int64(min(fr.left, 1<<20))); err != nil {
					return
				}
				continue
			}
			s, err := fr.payload(size)
			if err != nil {
				return
			}
			if uint64(len(s)) != size || size > maxHead {
				t.Fatalf("payload of %d bytes for a size of %d", len(s), size)
			}
			fuzzPayload(t, s)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// fuzzPayload decodes a payload as each kind of head; what decodes must encode to the same meaning.
func fuzzPayload(t *testing.T, s string) {
	if h, err := decodeRequest(s); err == nil {
		if h.size < -1 || h.timeout < 0 || len(h.header) > maxFields {
			t.Fatalf("decoded %+v", h)
		}
		_, _ = h.url()
		dropUnsent(h.header)
		if again, err := decodeRequest(string(h.append(nil))); err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v %v", h, again, err)
		}
	}
	if h, err := decodeResponse(s); err == nil {
		announcedTrailer(h.header)
		dropUnsent(h.header)
		b, _ := h.append(nil)
		if again, err := decodeResponse(string(b)); err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v %v", h, again, err)
		}
	}
}

func dropUnsent(h http.Header) {
	for name := range h {
		if !travels(name) {
			delete(h, name)
		}
	}
}

func BenchmarkRequestHead(b *testing.B) {
	h := requestHead{flags: flagAnswerFirst | flagNoBody, timeout: time.Second, method: "GET", authority: "hello.example.org", target: "/some/path?with=query", header: http.Header{
		"User-Agent": {"curl/8.5.0"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Perigee-Hop-Function": {"hello"},
		"Perigee-Hop-Client": {"203.0.113.9"}, "Perigee-Hop-Revision": {"0123456789ab"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}}
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		if err := checkFields(h.header, 0); err != nil {
			b.Fatal(err)
		}
		buf = h.append(buf[:0])
		if _, err := decodeRequest(string(buf)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}
