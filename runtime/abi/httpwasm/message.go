package httpwasm

import (
	"log/slog"
	"net/url"

	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// reply writes b at ptr if it is not longer than limit, and returns its length either way.
func (c *Call) reply(mod api.Module, ptr, limit uint64, b string) uint64 {
	if len(b) <= int(uint32(limit)) {
		c.Write(mod, uint32(ptr), []byte(b))
	}
	return uint64(len(b))
}

// begun refuses calls about a request before there is one.
func (c *Call) begun(what string) {
	if c.Phase == abi.Starting {
		c.Trap("%s was called in a start function: there is no request yet", what)
	}
}

// beforeNext refuses changes that would come too late for the next handler.
func (c *Call) beforeNext(what string) {
	c.begun(what)
	if c.Phase == abi.Responding {
		c.Trap("can't %s after the next handler has run", what)
	}
}

// enableFeatures turns features on and returns those that the host has.
func (c *Call) enableFeatures(_ api.Module, s []uint64) {
	c.features |= uint32(s[0]) & supported
	if c.features&bufferResponse != 0 && c.Phase != abi.Responding {
		c.Answer.Keep()
	}
	s[0] = supported
}

// getConfig returns nothing: Perigee configures guests by their environment.
func (c *Call) getConfig(mod api.Module, s []uint64) { s[0] = 0 }

// level translates the ABI's levels, -1 debug to 2 error; others have no message.
func level(n uint64) (slog.Level, bool) {
	l := int32(n)
	return slog.Level(l) * 4, l >= -1 && l <= 2
}

func (c *Call) logEnabled(_ api.Module, s []uint64) {
	l, ok := level(s[0])
	if s[0] = 0; ok && c.Log.Enabled(l) {
		s[0] = 1
	}
}

func (c *Call) log(mod api.Module, s []uint64) {
	msg := c.Read(mod, uint32(s[1]), uint32(s[2]))
	if l, ok := level(s[0]); ok {
		c.Log.Line(l, msg)
	}
}

func (c *Call) getMethod(mod api.Module, s []uint64) {
	c.begun("get_method")
	s[0] = c.reply(mod, s[0], s[1], c.Request.Method)
}

func (c *Call) setMethod(mod api.Module, s []uint64) {
	c.beforeNext("set the method")
	method := c.ReadString(mod, uint32(s[0]), uint32(s[1]))
	if !abi.Token(method) {
		c.Trap("method %.40q is not a token", method)
	}
	c.Request.Method = method
}

func (c *Call) getURI(mod api.Module, s []uint64) {
	c.begun("get_uri")
	s[0] = c.reply(mod, s[0], s[1], c.uri())
}

// uri is the path and query of the request.
func (c *Call) uri() string {
	u := *c.Request.URL
	u.Scheme, u.Host, u.User, u.Opaque = "", "", nil, ""
	return u.RequestURI()
}

func (c *Call) setURI(mod api.Module, s []uint64) {
	c.beforeNext("set the URI")
	uri := c.ReadString(mod, uint32(s[0]), uint32(s[1]))
	if uri == "" {
		uri = "/"
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil || u.Scheme != "" || uri[0] != '/' {
		c.Trap("URI %.80q is not an encoded path and query", uri)
	}
	c.Request.URL, c.Request.RequestURI = u, uri
}

func (c *Call) getProtocolVersion(mod api.Module, s []uint64) {
	c.begun("get_protocol_version")
	s[0] = c.reply(mod, s[0], s[1], c.Request.Proto)
}

func (c *Call) getSourceAddr(mod api.Module, s []uint64) {
	c.begun("get_source_addr")
	s[0] = c.reply(mod, s[0], s[1], c.Request.RemoteAddr)
}

func (c *Call) getStatusCode(_ api.Module, s []uint64) {
	c.begun("get_status_code")
	s[0] = uint64(c.Answer.Status())
}

func (c *Call) setStatusCode(_ api.Module, s []uint64) {
	c.mayAnswer("set the status")
	c.Must(c.Answer.SetStatus(int(uint32(s[0]))))
}

// mayAnswer refuses changes to a response that the next handler has sent.
func (c *Call) mayAnswer(what string) {
	c.begun(what)
	if c.Phase == abi.Responding && c.features&bufferResponse == 0 {
		c.Trap("can't %s after the next handler has run without the feature buffer-response", what)
	}
}
