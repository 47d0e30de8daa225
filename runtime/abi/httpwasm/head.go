package httpwasm

import (
	"encoding/binary"

	"github.com/tetratelabs/wazero/api"
)

// Extension is the import module of what Perigee adds to the ABI.
const Extension = "perigee_handler"

var extension = []function{
	{"request_head", "ii:i", (*Call).requestHead},
}

// requestHead writes what the other functions tell of a request piece by piece, all but its body and
// trailers, if it is not longer than limit, and returns its length either way. It is a list of texts, each
// behind its length (4 bytes, little-endian): method, URI, protocol, source address, and then a name and a
// value for each value of each field, by name.
func (c *Call) requestHead(mod api.Module, s []uint64) {
	c.begun("request_head")
	b := c.text[:0]
	for _, part := range [...]string{c.Request.Method, c.uri(), c.Request.Proto, c.Request.RemoteAddr} {
		b = appendText(b, part)
	}
	for _, name := range c.names(requestHeader) {
		for _, value := range c.requestValues(name) {
			b = appendText(appendText(b, name), value)
		}
	}
	c.text = b
	if len(b) <= int(uint32(s[1])) {
		c.Write(mod, uint32(s[0]), b)
	}
	s[0] = uint64(len(b))
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}
