package edgeproxy

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tcpRTT returns the smoothed round trip of a TCP connection, as the system measures it; 0 = not known.
func tcpRTT(c net.Conn) time.Duration {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return 0
	}
	var us uint32
	_ = raw.Control(func(fd uintptr) { // fails for a connection that is closed
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			us = info.Rtt
		}
	})
	return time.Duration(us) * time.Microsecond
}
