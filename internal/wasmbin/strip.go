package wasmbin

import "encoding/binary"

// Strip returns the module without its custom sections: names and debug information, which nobody
// needs to run it and which decoders parse with less care. b must have passed Check. The result is
// the same bytes for the same input; it shares memory with b when there is nothing to strip.
func Strip(b []byte) []byte {
	var out []byte
	for pos := 8; pos < len(b); { // after the preamble: id, size, content
		size, n := binary.Uvarint(b[pos+1:])
		end := pos + 1 + n + int(size)
		if b[pos] == secCustom {
			if out == nil {
				out = append(make([]byte, 0, len(b)), b[:pos]...)
			}
		} else if out != nil {
			out = append(out, b[pos:end]...)
		}
		pos = end
	}
	if out == nil {
		return b
	}
	return out
}
