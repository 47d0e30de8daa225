package cgi_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/cgi"
)

func newCall(w http.ResponseWriter, r *http.Request) *cgi.Call {
	var dropped atomic.Int64
	return cgi.New(&abi.Exchange{
		Request: r, Answer: abi.NewAnswer(w, r.Method, limits), Limits: limits,
		Log: abi.NewLog(slog.New(slog.DiscardHandler), abi.NewLogRate(), &dropped),
	})
}

// TestEnv gives, for requests, what has to be in the environment ("NAME=value") and what must not
// ("-NAME").
func TestEnv(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(r *http.Request)
		base   map[string]string
		want   string // fields separated by " | "
	}{
		"plain": {nil, nil, "GATEWAY_INTERFACE=CGI/1.1 | SERVER_SOFTWARE=Perigee/" + perigee.Version + " | SERVER_NAME=fn.example.com | SERVER_PORT=80 | " +
			"SERVER_PROTOCOL=HTTP/1.1 | REQUEST_METHOD=GET | REQUEST_URI=/a%2fb/%C3%BC?q=1&r=%20 | SCRIPT_NAME= | PATH_INFO=/a/b/ü | QUERY_STRING=q=1&r=%20 | " +
			"REMOTE_ADDR=192.0.2.1 | REMOTE_HOST=192.0.2.1 | REMOTE_PORT=1234 | HTTP_HOST=fn.example.com | " +
			"-HTTPS | -CONTENT_LENGTH | -CONTENT_TYPE | -AUTH_TYPE | -REMOTE_USER | -PATH_TRANSLATED"},
		"post": {func(r *http.Request) {
			r.Method, r.ContentLength = "POST", 7
			r.Header = http.Header{"Content-Type": {"text/x"}, "Content-Length": {"7"}}
		}, nil, "REQUEST_METHOD=POST | CONTENT_LENGTH=7 | CONTENT_TYPE=text/x | -HTTP_CONTENT_TYPE | -HTTP_CONTENT_LENGTH"},
		"length not known": {func(r *http.Request) { r.ContentLength = -1 }, nil, "-CONTENT_LENGTH"},
		"headers": {func(r *http.Request) {
			r.Header = http.Header{"X-Two": {"a", "b, c"}, "Cookie": {"a=1", "b=2"}, "X1-2-3": {""}, "Authorization": {"Basic x"}}
		}, nil, "HTTP_X_TWO=a, b, c | HTTP_COOKIE=a=1; b=2 | HTTP_X1_2_3= | HTTP_AUTHORIZATION=Basic x"},
		"httpoxy":     {func(r *http.Request) { r.Header = http.Header{"Proxy": {"http://evil"}} }, nil, "-HTTP_PROXY"},
		"two hosts":   {func(r *http.Request) { r.Header = http.Header{"Host": {"evil"}} }, nil, "HTTP_HOST=fn.example.com"},
		"underscores": {func(r *http.Request) { r.Header = http.Header{"X_Forwarded_For": {"evil"}, "X.Y": {"z"}, "A=B": {"c"}} }, nil, "-HTTP_X_FORWARDED_FOR | -HTTP_X.Y | -HTTP_A"},
		"tls":         {func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, nil, "HTTPS=on | SERVER_PORT=443"},
		"tls outside": {func(r *http.Request) { r.Header = http.Header{"X-Forwarded-Proto": {"https"}} }, nil, "HTTPS=on | SERVER_PORT=443"},
		"tls inside": {func(r *http.Request) {
			r.TLS = &tls.ConnectionState{}
			r.Header = http.Header{"X-Forwarded-Proto": {"http"}}
		}, nil, "-HTTPS | SERVER_PORT=80"},
		"port":         {func(r *http.Request) { r.Host = "fn:8443" }, nil, "SERVER_NAME=fn | SERVER_PORT=8443 | HTTP_HOST=fn:8443"},
		"no port":      {func(r *http.Request) { r.Host = "fn:" }, nil, "SERVER_NAME=fn | SERVER_PORT=80"},
		"ipv6":         {func(r *http.Request) { r.Host = "[::1]" }, nil, "SERVER_NAME=[::1] | SERVER_PORT=80"},
		"ipv6 port":    {func(r *http.Request) { r.Host = "[::1]:81" }, nil, "SERVER_NAME=[::1] | SERVER_PORT=81"},
		"no host":      {func(r *http.Request) { r.Host = "" }, nil, "SERVER_NAME=localhost | SERVER_PORT=80 | -HTTP_HOST"},
		"client":       {func(r *http.Request) { r.RemoteAddr = "[2001:db8::1%eth0]:0" }, nil, "REMOTE_ADDR=2001:db8::1 | REMOTE_HOST=2001:db8::1 | -REMOTE_PORT"},
		"no client":    {func(r *http.Request) { r.RemoteAddr = "" }, nil, "REMOTE_ADDR= | REMOTE_HOST= | -REMOTE_PORT"},
		"http/2":       {func(r *http.Request) { r.Proto = "HTTP/2.0" }, nil, "SERVER_PROTOCOL=HTTP/2.0"},
		"made by hand": {func(r *http.Request) { r.Proto, r.Method = "", "" }, nil, "SERVER_PROTOCOL=HTTP/1.1 | REQUEST_METHOD=GET"},
		"zero byte":    {func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a\x00b", "/a%00b" }, nil, "PATH_INFO=/a | REQUEST_URI=/a%00b?q=1&r=%20"},
		"own": {func(r *http.Request) { r.Header = http.Header{"X-A": {"1"}} }, map[string]string{
			"GREETING": "hi", "HTTP_X_A": "own", "HTTP_PROXY": "own", "REMOTE_USER": "root", "CONTENT_LENGTH": "9", "HTTPS": "on", "HTTPS_PROXY": "p", "PATH": "/bin",
		}, "GREETING=hi | PATH=/bin | HTTPS_PROXY=p | HTTP_X_A=1 | -HTTP_PROXY | -REMOTE_USER | -CONTENT_LENGTH | -HTTPS"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "http://fn.example.com/a%2fb/%C3%BC?q=1&r=%20", nil)
			if tc.change != nil {
				tc.change(r)
			}
			env := newCall(httptest.NewRecorder(), r).Env(tc.base)
			names := map[string]bool{}
			for _, e := range env {
				n, _, _ := strings.Cut(e, "=")
				if names[n] {
					t.Errorf("%s is there twice", n)
				}
				names[n] = true
			}
			for want := range strings.SplitSeq(tc.want, " | ") {
				if not, ok := strings.CutPrefix(want, "-"); ok && names[not] || !ok && !slices.Contains(env, want) {
					t.Errorf("want %s in %q", want, env)
				}
			}
		})
	}
}

// TestEnvOrder has the function's own variables first, sorted, and the same each time.
func TestEnvOrder(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{"B": {"1"}, "A": {"2"}, "C": {"3"}}
	first := newCall(httptest.NewRecorder(), r).Env(map[string]string{"Z": "1", "Y": "2", "A": "3"})
	if !slices.Equal(first[:3], []string{"A=3", "Y=2", "Z=1"}) {
		t.Errorf("%q", first)
	}
	for range 20 {
		if again := newCall(httptest.NewRecorder(), r).Env(map[string]string{"A": "3", "Y": "2", "Z": "1"}); !slices.Equal(first, again) {
			t.Fatalf("%q, then %q", first, again)
		}
	}
}
