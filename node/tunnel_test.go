package node_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
)

// webSocketOrigin sends back every byte after its handshake, until the client has sent "bye".
func webSocketOrigin(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nX-Origin: %s %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]), r.Host, r.Header.Get("X-Forwarded-Host"))
		for last := ""; last != "bye"; {
			b := make([]byte, 3)
			if _, err := io.ReadFull(rw, b); err != nil {
				return
			}
			last = string(b)
			_, _ = conn.Write(b)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// TestNextWebSocket: a WebSocket passes a real guest to its origin, which the operator's rules allow or not,
// from the node that runs it and from another. What it carries is counted, and the guest's slot is free
// meanwhile.
func TestNextWebSocket(t *testing.T) {
	origin := webSocketOrigin(t)
	f := clusterWith(t, fleet.Config{Regions: []perigee.Region{"fra", "wdc"}, OutboundAllow: []string{origin.Listener.Addr().String()}})
	fn := pack(t, "chat", passing(), perigee.Policy{Pin: []string{"wdc"}})
	fn.Next, fn.Limits.Concurrency = origin.URL, 1
	deploy(t, f, fn)
	forbidden := pack(t, "forbidden", passing(), perigee.Policy{Pin: []string{"wdc"}})
	forbidden.Next = webSocketOrigin(t).URL
	deploy(t, f, forbidden)

	open := func(m *fleet.Member, url string) *http.Response {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Version": {"13"}}
		resp, err := f.Client(m).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	const each = 100
	for _, m := range f.Members() {
		var both [2]*http.Response
		for i := range both { // the second although one request runs at a time
			both[i] = open(m, "https://chat.localhost/room")
			for deadline := time.Now().Add(10 * time.Second); both[i].StatusCode == http.StatusServiceUnavailable && time.Now().Before(deadline); {
				both[i] = open(m, "https://chat.localhost/room") // the first's guest ends just after its head has left
			}
			if both[i].StatusCode != 101 || both[i].Header.Get("X-Origin") != origin.Listener.Addr().String()+" chat.localhost" {
				t.Fatalf("at %s: %s %v", m.ID(), both[i].Status, both[i].Header)
			}
		}
		for _, resp := range both {
			ws, in := resp.Body.(io.ReadWriteCloser), bufio.NewReader(resp.Body)
			for i := range each {
				word := fmt.Sprintf("%03d", i)
				if i == each-1 {
					word = "bye"
				}
				b := make([]byte, 3)
				_, _ = io.WriteString(ws, word)
				if _, err := io.ReadFull(in, b); err != nil || string(b) != word {
					t.Fatalf("at %s: %q, %v; want %q", m.ID(), b, err, word)
				}
			}
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("at %s: after the origin's end: %v", m.ID(), err)
			}
		}
		if resp := open(m, "https://chat.localhost/no"); resp.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("at %s: the origin's refusal is %s", m.ID(), resp.Status)
		}
		if resp := open(m, "https://forbidden.localhost/"); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("at %s: an origin that is not allowed: %s", m.ID(), resp.Status)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		u, err := f.Members()[0].Client().Usage(t.Context(), "chat")
		if err != nil {
			t.Fatal(err)
		}
		var requests, in, out uint64
		for _, row := range u.Rows {
			requests, in, out = requests+row.Requests, in+row.BytesIn, out+row.BytesOut
		}
		if requests == 6 && in == 4*3*each && out >= in { // and the refusals
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("usage has %d requests, %d bytes in and %d out; want 6, %d and more", requests, in, out, 4*3*each)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
