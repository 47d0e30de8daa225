package edgeproxy

import (
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
)

// The fields of W3C Trace Context.
const (
	headerTrace      = "Traceparent"
	headerTraceState = "Tracestate"
)

// trace is the place of a request in a trace.
type trace struct {
	traceID [16]byte
	spanID  [8]byte // of this gateway's part
	parent  [8]byte // of the client's, if follows
	flags   byte
	follows bool // a trace that the client began
}

// traceOf reads the client's trace context, or begins a trace if there is none that is valid (W3C Trace
// Context, level 1, section 3.2). A new trace is not marked as sampled: nobody has asked for that.
func traceOf(h http.Header) (t trace) {
	for i := range t.spanID {
		t.spanID[i] = byte(rand.Uint32())
	}
	if lines := h[headerTrace]; len(lines) == 1 && t.parse(lines[0]) {
		t.follows = true
		return t
	}
	for i := range t.traceID {
		t.traceID[i] = byte(rand.Uint32())
	}
	t.traceID[0] |= 1 // not all zero
	return t
}

// parse reads a field of version 00, or of a later one, which may be longer.
func (t *trace) parse(s string) bool {
	const size = len("00-") + 32 + 1 + 16 + 1 + 2
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' || strings.ToLower(s[:size]) != s[:size] {
		return false
	}
	version, ok := hexByte(s[:2])
	if !ok || version == 0xff || version == 0 && len(s) != size || version > 0 && len(s) > size && s[size] != '-' {
		return false
	}
	var id [16]byte
	var parent [8]byte
	if _, err := hex.Decode(id[:], []byte(s[3:35])); err != nil || id == [16]byte{} {
		return false
	}
	if _, err := hex.Decode(parent[:], []byte(s[36:52])); err != nil || parent == [8]byte{} {
		return false
	}
	flags, ok := hexByte(s[53:55])
	if !ok {
		return false
	}
	t.traceID, t.parent, t.flags = id, parent, flags&1 // the others mean nothing here
	return true
}

func hexByte(s string) (byte, bool) {
	var b [1]byte
	_, err := hex.Decode(b[:], []byte(s))
	return b[0], err == nil
}

// id returns the name of the whole trace.
func (t *trace) id() string { return hex.EncodeToString(t.traceID[:]) }

// put tells whoever answers the request where it stands. The state of a trace that is not followed goes.
func (t *trace) put(h http.Header) {
	h[headerTrace] = []string{"00-" + t.id() + "-" + hex.EncodeToString(t.spanID[:]) + "-" + hex.EncodeToString([]byte{t.flags})}
	if !t.follows {
		delete(h, headerTraceState)
	}
}
