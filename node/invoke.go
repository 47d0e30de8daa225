package node

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// invokePath is the path of the API below which functions are.
const invokePath = "/v1/invoke/"

// serveInvoke runs a request through this node's gateway, as if it had come from a client for the
// function's first route. rest is the request's path after invokePath, as it was escaped.
func (n *Node) serveInvoke(w http.ResponseWriter, r *http.Request, rest string) {
	escaped, path, found := strings.Cut(rest, "/")
	name, err := url.PathUnescape(escaped)
	if err != nil || !found {
		fail(w, http.StatusBadRequest, fmt.Errorf("invoke: want %s<function>/<path>", invokePath))
		return
	}
	n.serveAs(w, r, name, "/"+path)
}

// serveAs runs a request through this node's gateway, below the first route of a function. path is
// escaped and starts with a slash.
func (n *Node) serveAs(w http.ResponseWriter, r *http.Request, name, path string) {
	d := n.View().Desired
	fn := d.Functions[name]
	if fn == nil {
		fail(w, http.StatusNotFound, fmt.Errorf("no function %q: `perigee ls` lists the ones there are", name))
		return
	}
	routes := fn.Routes(d.Domain)
	if len(routes) == 0 {
		fail(w, http.StatusConflict, fmt.Errorf("all routes of %s belong to other functions: `perigee show %s` names them", name, name))
		return
	}
	out := r.Clone(r.Context())
	out.TLS, out.Host = nil, routes[0].Host
	out.URL.Host, out.URL.Scheme = "", ""
	prefix := (&url.URL{Path: strings.TrimSuffix(routes[0].Path, "/")}).EscapedPath()
	if err := setPath(out.URL, prefix+path); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("invoke: %w", err))
		return
	}
	out.RequestURI = out.URL.RequestURI()
	n.proxy.ServeHTTP(w, out)
}

// setPath sets a path that is escaped, and keeps how it is escaped.
func setPath(u *url.URL, escaped string) (err error) {
	u.RawPath = escaped
	u.Path, err = url.PathUnescape(escaped)
	return err
}
