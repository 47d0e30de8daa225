package peerlink

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

func TestControl(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	b, _ := m.node("b", func(c *Config) {
		c.Control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, _ := PeerFrom(r.Context())
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(w, string(peer.ID)+" "+r.URL.Path+" "+string(body))
		})
	})
	for name, rt := range map[string]http.RoundTripper{
		"by id": a.Control("b"), "by address": a.ControlAddr(b.Addr()),
		"by mapped address": a.ControlAddr(netip.AddrPortFrom(netip.AddrFrom16(b.Addr().Addr().As16()), b.Addr().Port())),
	} {
		client := &http.Client{Transport: rt}
		resp, err := client.Post("http://b/x", "text/plain", strings.NewReader("hi"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if body := readBody(t, resp); body != "a /x hi" {
			t.Errorf("%s: got %q", name, body)
		}
	}
	if n := len(a.conns.node("b")); n != 1 {
		t.Errorf("%d control connections, want 1 for both names", n)
	}
	a.Disconnect("b")
	eventually(t, "disconnect", func() bool { return !a.Connected("b") && !b.Connected("a") })
}

func TestControlRefused(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	m.node("b", func(c *Config) {
		c.Control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(Responder).Refuse(perigee.RefusedDraining, perigee.Load{}, "")
		})
	})
	body := &closeCounter{Reader: strings.NewReader("x")}
	r := request(t, "POST", "http://b/", "x")
	r.Body = body
	_, err := a.Control("b").RoundTrip(r)
	var se *StreamError
	if !errors.As(err, &se) || se.Code != ResetDraining {
		t.Errorf("got %v", err)
	}
	eventually(t, "body is closed", func() bool { return body.closed.Load() > 0 })
}

func TestControlErrorsCloseTheBody(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	for name, change := range map[string]func(*http.Request){
		"unknown node": func(*http.Request) {},
		"bad request":  func(r *http.Request) { r.Method = "A B" },
	} {
		body := &closeCounter{Reader: strings.NewReader("x")}
		r := request(t, "POST", "http://b/", "x")
		r.Body = body
		change(r)
		if _, err := a.Control("nobody").RoundTrip(r); err == nil || body.closed.Load() == 0 {
			t.Errorf("%s: error %v, body closed %d times", name, err, body.closed.Load())
		}
	}
}

func TestControlWithoutHandler(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	m.node("b", func(c *Config) { c.Control = nil })
	_, err := a.Control("b").RoundTrip(request(t, "GET", "http://b/", ""))
	var se *StreamError
	if !errors.As(err, &se) || se.Code != ResetProtocol {
		t.Errorf("got %v", err)
	}
}
