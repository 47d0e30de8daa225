package edgeproxy

import "encoding/binary"

// frames follows a stream of WebSocket frames (RFC 6455, section 5.2) as far as is needed to know where one
// ends. The zero value is at the begin of a stream.
type frames struct {
	head [14]byte
	have int    // bytes of a header that is not complete
	left uint64 // bytes of its payload that are still to come
}

// pass takes bytes up to the end of a frame, and returns how many.
func (f *frames) pass(p []byte) (n int) {
	for n < len(p) {
		if f.left == 0 {
			f.head[f.have] = p[n]
			n++
			if f.have++; f.have < headSize(f.head[:f.have]) {
				continue
			}
			f.left, f.have = payloadSize(f.head[:]), 0
		}
		k := int(min(f.left, uint64(len(p)-n)))
		n += k
		if f.left -= uint64(k); f.left == 0 {
			break
		}
	}
	return n
}

// between reports whether the last frame is complete.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

// headSize returns how long a header is that begins like this.
func headSize(b []byte) int {
	if len(b) < 2 {
		return 2
	}
	n := 2
	switch b[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if b[1]&0x80 != 0 {
		n += 4 // the mask
	}
	return n
}

func payloadSize(head []byte) uint64 {
	switch n := head[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return binary.BigEndian.Uint64(head[2:])
	default:
		return uint64(n)
	}
}
