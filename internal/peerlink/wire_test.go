package peerlink

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// frame encodes a frame by hand.
func frame(t frameType, payload string) string {
	b, at := beginFrame(nil, t)
	b = append(b, payload...)
	endFrame(b, at)
	return string(b)
}

func requestPayload(flags uint64, target string) string {
	h := requestHead{flags: flags, size: -1, method: "GET", authority: "f", target: target}
	return string(h.append(nil))
}

// TestWireGolden pins the bytes that other releases must understand.
func TestWireGolden(t *testing.T) {
	head := requestHead{
		flags: flagAnswerFirst, timeout: 250 * time.Millisecond, size: 5, method: "PUT", authority: "f.example", target: "/a?b=c",
		header: http.Header{"X-Y": {"z"}, "Connection": {"close"}},
	}
	var b bytes.Buffer
	w := frameWriter{w: &b}
	w.frame(frameRequest, head.append)
	w.frame(frameAccepted, func(b []byte) []byte { return appendLoad(b, perigee.Load{InFlight: 70, Slots: 8}) })
	w.frame(frameRefused, func(b []byte) []byte { return appendLoad(append(b, byte(ResetNotHere)), perigee.Load{}) })
	response := responseHead{status: 404, size: 3, header: http.Header{"A": {"b"}}}
	w.frame(frameResponse, func(b []byte) []byte { b, _ = response.append(b); return b })
	if _, err := w.data([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	w.frame(frameEnd, func(b []byte) []byte { return appendFields(appendLoad(b, perigee.Load{}), http.Header{"T": {"v"}}) })
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"01 01 80000022 01 8003d090 06 03505554 09662e6578616d706c65 062f613f623d63 01 03582d59 017a",
		"02 01 80000005 01 4046 08 00",
		"03 01 80000002 12 00",
		"04 01 8000000f 4194 c000000000000004 01 0141 0162",
		"05 01 80000003 616263",
		"06 01 80000006 00 01 0154 0176",
	}, "")
	if got := hex.EncodeToString(b.Bytes()); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", got, strings.ReplaceAll(want, " ", ""))
	}
}

// dialBare opens a connection to b without this package's client.
func dialBare(t *testing.T, m *mesh, alpn string) *quic.Conn {
	t.Helper()
	addr, _ := m.addr("b")
	socket := listenUDP(t)
	tr := newTransport(socket, nil, [4]byte{})
	q, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(addr), m.identity("bare").PeerClientTLS(alpn, "b", nil), clientQUIC(15*time.Second, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = q.CloseWithError(0, "")
		_ = tr.Close()
		_ = socket.Close()
	})
	return q
}

func TestWireRequests(t *testing.T) {
	m := newMesh(t)
	m.node("b", func(c *Config) {
		c.HeadTimeout = 100 * time.Millisecond
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(append([]byte(r.URL.Path+" "), b...))
		})
	})
	q := dialBare(t, m, ALPNPeer)
	const noBody = flagNoBody
	good := frame(frameRequest, requestPayload(0, "/p"))
	ok := func(s string) string {
		b := &bytes.Buffer{}
		w := frameWriter{w: b}
		head := responseHead{status: 200, size: int64(len(s)), header: http.Header{}}
		w.frame(frameResponse, func(b []byte) []byte { b, _ = head.append(b); return b })
		_, _ = w.data([]byte(s))
		_ = w.flush()
		return b.String()
	}
	tests := []struct {
		name, send string
		open       bool // no FIN
		want       string
		code       ResetCode
	}{
		{name: "plain", send: frame(frameRequest, requestPayload(noBody, "/p")), want: ok("/p ")},
		{name: "body", send: good + frame(frameData, "abc") + frame(frameData, "d"), want: ok("/p abcd")},
		{name: "later fields", send: frame(frameRequest, requestPayload(noBody, "/p")+"later"), want: ok("/p ")},
		{name: "frames to skip", send: frame(0x83, "") + frame(0xff, strings.Repeat("x", 5000)) + good + frame(0x99, "y") + frame(frameData, "abc"), want: ok("/p abc")},
		{name: "accepted is not asked for twice", send: frame(frameRequest, requestPayload(noBody|flagAnswerFirst, "/p")), want: frame(frameAccepted, "\x00") + ok("/p ")},
		{name: "too many to skip", send: strings.Repeat(frame(0x83, ""), maxSkipped+1) + good, code: ResetProtocol},
		{name: "unknown type", send: frame(0x20, "") + good, code: ResetProtocol},
		{name: "another version", send: "\x01\x02\x00", open: true, code: ResetVersion},
		{name: "data first", send: frame(frameData, "x"), open: true, code: ResetProtocol},
		{name: "raw stream of hops", send: frame(frameRaw, "\x01"), open: true, code: ResetProtocol},
		{name: "head too long", send: "\x01\x01\x80\x01\x00\x01", open: true, code: ResetProtocol},
		{name: "frame to skip too long", send: "\x80\x01\x80\x01\x00\x01", open: true, code: ResetProtocol},
		{name: "head cut off", send: good[:len(good)-2], code: ResetProtocol},
		{name: "slow head", send: good[:len(good)-2], open: true, code: ResetTimeout},
		{name: "nothing", send: "\x01", open: true, code: ResetTimeout},
		{name: "bad target", send: frame(frameRequest, requestPayload(noBody, "p")), code: ResetProtocol},
		{name: "bad escape", send: frame(frameRequest, requestPayload(noBody, "/%zz")), code: ResetProtocol},
		{name: "body cut off", send: good + frame(frameData, "abc")[:8], code: ResetInternal},
		{name: "empty data", send: good + frame(frameData, ""), code: ResetInternal},
		{name: "request in a body", send: good + good, code: ResetInternal},
		{name: "frame after the end", send: good + frame(frameEnd, "\x00\x00") + frame(frameData, "x"), code: ResetInternal},
		{name: "malformed end", send: good + frame(frameEnd, "\x00\x05"), code: ResetInternal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st, err := q.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(st, tt.send); err != nil {
				t.Fatal(err)
			}
			if !tt.open {
				_ = st.Close()
			}
			got, err := io.ReadAll(st)
			st.CancelWrite(0)
			var se *StreamError
			if errors.As(streamErr(err), &se) {
				if se.Code != tt.code {
					t.Errorf("reset with %v, want %v", se.Code, tt.code)
				}
			} else if err != nil || string(got) != tt.want {
				t.Errorf("got  %q %v\nwant %q", got, err, tt.want)
			}
		})
	}
}

// TestWireResponses plays a worker by hand.
func TestWireResponses(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	send := make(chan string, 1)
	serveBare(t, m, "b", func(st *quic.Stream) {
		defer st.Close()
		if _, err := io.ReadFull(st, make([]byte, 6)); err == nil {
			_, _ = io.WriteString(st, <-send)
		}
	})
	head := responseHead{status: 200, size: 3, header: http.Header{}}
	payload, _ := head.append(nil)
	accepted, response := frame(frameAccepted, "\x00"), frame(frameResponse, string(payload))
	code := func(err error) string {
		var he *perigee.HopError
		var se *StreamError
		switch {
		case errors.As(err, &he):
			return string(he.Code)
		case errors.As(err, &se) && se.Err != nil:
			return se.Code.String() + ", " + se.Err.Error()
		case errors.As(err, &se):
			return se.Code.String()
		case err == nil:
			return "ok"
		}
		return err.Error()
	}
	for _, tt := range []struct{ name, send, want string }{
		{"good", accepted + response + frame(frameData, "abc"), "ok"},
		{"frames to skip", frame(0x81, "?") + accepted + frame(0x82, "?") + response + frame(frameData, "ab") + frame(0x82, "?") + frame(frameData, "c"), "ok"},
		{"load with a later field", frame(frameAccepted, "\x01\x02\x03later") + response + frame(frameData, "abc"), "ok"},
		{"nothing", "", "protocol error, unexpected EOF"},
		{"unknown refusal", frame(frameRefused, "\x3f\x00"), "overloaded"},
		{"malformed refusal", frame(frameRefused, ""), "protocol error, peer frame: malformed integer"},
		{"response without accepted", response, "protocol error, peer frame: frame type 0x04 before accepted"},
		{"long accepted", "\x02\x01\x44\x01", "protocol error, peer frame: frame type 0x02 of 1025 bytes, the limit is 1024"},
		{"end after accepted", accepted, "protocol error, unexpected EOF"},
		{"data before the response", accepted + frame(frameData, "abc"), "protocol error, peer frame: data before the response"},
		{"end before the response", accepted + frame(frameEnd, "\x00\x00"), "protocol error, peer frame: frame type 0x06 before the response"},
		{"refused after accepted", accepted + frame(frameRefused, "\x10\x00"), "overloaded"},
		{"interim", accepted + frame(frameInterim, "\x40\x67\x01\x04Link\x01x") + frame(frameInterim, "\x40\x64\x00") + response + frame(frameInterim, "\x40\x64\x00") + frame(frameData, "abc"), "ok"},
		{"bad interim status", accepted + frame(frameInterim, "\x40\xc8\x00") + response, "protocol error, peer frame: malformed status"},
		{"interim without end", accepted + strings.Repeat(frame(frameInterim, "\x40\x67\x00"), maxSkipped+1) + response, "protocol error, peer frame: more than 16 interim frames"},
		{"interim before accepted", frame(frameInterim, "\x40\x67\x00") + accepted + response, "protocol error, peer frame: frame type 0x80 before accepted"},
		{"bad status", accepted + frame(frameResponse, "\x40\x64\x00\x00"), "protocol error, peer frame: malformed status"},
		{"cut off", accepted + response[:len(response)-1], "protocol error, unexpected EOF"},
		{"short body", accepted + response + frame(frameData, "ab"), "protocol error, unexpected EOF"},
		{"long body", accepted + response + frame(frameData, "abcd"), "protocol error, peer frame: more data than the response's size"},
		{"cut off in the body", accepted + response + frame(frameData, "abc")[:8], "protocol error, unexpected EOF"},
		{"response in a body", accepted + response + response, "protocol error, peer frame: frame type 0x04 in a body"},
		{"frame after the end", accepted + response + frame(frameData, "abc") + frame(frameEnd, "\x00\x00") + frame(frameEnd, "\x00\x00"), "protocol error, peer frame: frame after the end frame"},
		{"malformed end", accepted + response + frame(frameData, "abc") + frame(frameEnd, "\x00"), "protocol error, peer frame: malformed integer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			send <- tt.send
			var body []byte
			resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
			if err == nil {
				body, err = io.ReadAll(resp.Body)
			}
			if got := code(err); got != tt.want || got == "ok" && string(body) != "abc" {
				t.Errorf("got %q with %q, want %q", got, body, tt.want)
			}
			if n := inUse(a); n != 0 {
				t.Errorf("%d streams in use", n)
			}
		})
	}
}

// serveBare listens as a node without this package's server.
func serveBare(t *testing.T, m *mesh, id perigee.NodeID, serve func(*quic.Stream)) {
	t.Helper()
	socket := listenUDP(t)
	m.setAddr(id, addrPort(socket.LocalAddr()))
	tr := newTransport(socket, nil, [4]byte{})
	ln, err := tr.Listen(m.identity(id).PeerServerTLS([]string{ALPNPeer}, nil), &quic.Config{MaxIncomingStreams: 1000})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			q, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			for {
				st, err := q.AcceptStream(context.Background())
				if err != nil {
					break
				}
				serve(st)
			}
		}
	}()
	t.Cleanup(func() {
		_ = tr.Close()
		_ = socket.Close()
		<-done
	})
}

func TestStreamLimitIsOverloaded(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", func(c *Config) { c.DataConns = 1 })
	m.node("b", func(c *Config) {
		c.MaxStreams = 2
		c.Hops = http.HandlerFunc(stallUntilDone)
	})
	for range 2 {
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	_, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	var he *perigee.HopError
	if !errors.As(err, &he) || he.Code != perigee.RefusedOverloaded {
		t.Errorf("got %v", err)
	}
}

// TestStreamCredits: what lets a peer open streams comes back in batches, all of it: many more requests than may
// run at once are served one after the other, and then as many as may run at once do.
func TestStreamCredits(t *testing.T) {
	const limit = 300 // in batches of 3
	m := newMesh(t)
	a, _ := m.node("a", func(c *Config) { c.DataConns = 1 })
	m.node("b", func(c *Config) {
		c.MaxStreams = limit
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stall" {
				stallUntilDone(w, r)
			}
		})
	})
	for i := range 3 * limit {
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		_ = resp.Body.Close()
	}
	running, deadline := 0, time.Now().Add(30*time.Second)
	for running <= limit+creditBatch(limit) {
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/stall", ""))
		var he *perigee.HopError
		switch {
		case err == nil:
			running++
			defer resp.Body.Close()
			continue
		case !errors.As(err, &he) || he.Code != perigee.RefusedOverloaded:
			t.Fatal(err)
		case running >= limit && running < limit+creditBatch(limit):
			return
		case time.Now().After(deadline):
			t.Fatalf("%d run at once, want %d", running, limit)
		}
		time.Sleep(10 * time.Millisecond) // the last ones that ended are not acknowledged yet
	}
	t.Errorf("%d run at once, the limit is %d", running, limit)
}
