package peerlink

import (
	"io"
	"net/http"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/handover"
)

// TestMoved has a second link take over the port of a first, which still runs a request: that ends well,
// and a new one goes to the second, on whatever connection the peer had.
func TestMoved(t *testing.T) {
	m := newMesh(t)
	id, socket := m.identity("b"), listenUDP(t)
	running, release := make(chan struct{}), make(chan struct{})
	old, young := handover.NewMark(), handover.NewMark()
	first, _ := m.node("b", func(c *Config) {
		c.Identity, c.Socket, c.Mark = id, socket, old
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(Responder).Accept(perigee.Load{})
			close(running)
			<-release
			_, _ = io.WriteString(w, "first")
		})
	})
	a, _ := m.node("a", nil)
	got := make(chan string, 1)
	go func() {
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://example.org/", ""))
		if err != nil {
			got <- err.Error()
			return
		}
		got <- readBody(t, resp)
	}()
	<-running
	sibling, err := handover.Sibling(socket, handover.Steering{Mark: young})
	if err != nil {
		t.Fatal(err)
	}
	m.node("b", func(c *Config) {
		c.Identity, c.Socket, c.Mark = id, sibling, young
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(Responder).Accept(perigee.Load{})
			_, _ = io.WriteString(w, "second")
		})
		c.Control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "second") })
	})
	control := func() string {
		resp, err := a.Control("b").RoundTrip(request(t, "GET", "http://b/x", ""))
		if err != nil {
			return err.Error()
		}
		return readBody(t, resp)
	}
	control() // opens a connection to the first
	if err := handover.Steer(socket, handover.Steering{Mark: old, MarkedFirst: true}); err != nil {
		t.Fatal(err)
	}
	first.Moved()
	if s := control(); s == "second" {
		t.Error("a request reached the second link on a connection of the first")
	}
	if s := control(); s != "second" {
		t.Errorf("control afterwards: %s", s)
	}
	r := request(t, "POST", "http://example.org/", "hello") // not idempotent
	resp, err := a.RoundTripHop("b", r)
	if err != nil {
		t.Fatal(err)
	}
	if s := readBody(t, resp); s != "second" {
		t.Errorf("after the move: %s", s)
	}
	close(release)
	if s := <-got; s != "first" {
		t.Errorf("what was under way: %s", s)
	}
}
