package cgi

import (
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
)

// metaVariables are the names that only a request gives a value to, besides those that begin with HTTP_.
var metaVariables = []string{
	"AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "HTTPS", "PATH_INFO", "PATH_TRANSLATED", "QUERY_STRING",
	"REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_PORT", "REMOTE_USER", "REQUEST_METHOD", "REQUEST_URI", "SCRIPT_NAME",
	"SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SOFTWARE",
}

// Reserved reports whether a name of the environment is a meta-variable, which a function's own
// environment can't set: a program could not tell it from what the request says.
func Reserved(name string) bool {
	return strings.HasPrefix(name, "HTTP_") || slices.Contains(metaVariables, name)
}

// Env returns the environment of the program, NAME=value: base, the function's own, sorted and without
// what is reserved, and then the meta-variables of the request (RFC 3875, section 4.1).
//
// All header fields are there as HTTP_*, several of a name joined, with these exceptions. Content-Type
// and Content-Length have variables of their own. Proxy is left out, since programs take HTTP_PROXY for
// their own setting ("httpoxy"). So are names of other characters than letters, digits and '-':
// X_Forwarded_For would pose as X-Forwarded-For. Authorization is passed on, though the RFC says that a
// server should keep it: that is meant for a server that checks it, and for an environment that other
// users of a machine can read; here the program has to check it, and nobody else sees its memory.
//
// CONTENT_LENGTH is absent if the length is not known; the body is then what standard input has until its
// end. A value with a zero byte, which only PATH_INFO can have, ends before it.
func (c *Call) Env(base map[string]string) []string {
	r := c.Request
	env := make([]string, 0, len(base)+len(r.Header)+20)
	for _, name := range slices.Sorted(maps.Keys(base)) {
		if !Reserved(name) {
			env = append(env, name+"="+base[name])
		}
	}
	set := func(name, value string) { env = append(env, name+"="+value) }
	secure := r.TLS != nil
	if p := r.Header.Get("X-Forwarded-Proto"); p != "" { // the gateway's own, where a client's TLS ended
		secure = p == "https"
	}
	host, port := authority(r.Host, secure)
	pathInfo, _, _ := strings.Cut(r.URL.Path, "\x00")
	set("GATEWAY_INTERFACE", "CGI/1.1")
	set("SERVER_SOFTWARE", "Perigee/"+perigee.Version)
	set("SERVER_NAME", host)
	set("SERVER_PORT", port)
	set("SERVER_PROTOCOL", protocol(r.Proto))
	set("REQUEST_METHOD", method(r.Method))
	set("REQUEST_URI", requestURI(r))
	set("SCRIPT_NAME", "")
	set("PATH_INFO", pathInfo)
	set("QUERY_STRING", r.URL.RawQuery)
	addr, remotePort := remote(r.RemoteAddr)
	set("REMOTE_ADDR", addr)
	set("REMOTE_HOST", addr)
	if remotePort != "" {
		set("REMOTE_PORT", remotePort)
	}
	if secure {
		set("HTTPS", "on")
	}
	if r.ContentLength > 0 {
		set("CONTENT_LENGTH", strconv.FormatInt(r.ContentLength, 10))
	}
	if t := r.Header.Get("Content-Type"); t != "" {
		set("CONTENT_TYPE", t)
	}
	if r.Host != "" {
		set("HTTP_HOST", r.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if v, ok := variable(name); ok {
			separator := ", "
			if v == "HTTP_COOKIE" {
				separator = "; "
			}
			set(v, strings.Join(r.Header[name], separator))
		}
	}
	return env
}

// variable is the name of a header field in the environment, if it has one.
func variable(field string) (string, bool) {
	b := make([]byte, 0, len("HTTP_")+len(field))
	b = append(b, "HTTP_"...)
	for _, c := range []byte(field) {
		switch {
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		case c == '-':
			c = '_'
		case (c < 'A' || c > 'Z') && (c < '0' || c > '9'):
			return "", false
		}
		b = append(b, c)
	}
	switch v := string(b); v {
	case "HTTP_", "HTTP_PROXY", "HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_HOST":
		return "", false
	default:
		return v, true
	}
}

// authority splits a Host field. The port is the scheme's if the field has none.
func authority(host string, secure bool) (name, port string) {
	port = "80"
	if secure {
		port = "443"
	}
	name = host
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") { // the colons of an IPv6 address are in brackets
		name = host[:i]
		if host[i+1:] != "" {
			port = host[i+1:]
		}
	}
	if name == "" {
		name = "localhost"
	}
	return name, port
}

// remote splits a client's address, which has the port 0 when that is not known.
func remote(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, ""
	}
	if port == "0" {
		port = ""
	}
	host, _, _ = strings.Cut(host, "%") // a zone is the host's business
	return host, port
}

func requestURI(r *http.Request) string {
	u := *r.URL
	u.Scheme, u.Host, u.User, u.Opaque = "", "", nil, ""
	return u.RequestURI()
}

// protocol and method fill in what requests made by hand leave out.
func protocol(p string) string {
	if p == "" {
		return "HTTP/1.1"
	}
	return p
}

func method(m string) string {
	if m == "" {
		return http.MethodGet
	}
	return m
}
