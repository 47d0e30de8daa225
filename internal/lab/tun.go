//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	device = "tun0" // each namespace has its own
	mtu    = 1500
)

// tun is the device through which a namespace reaches the world. What the kernel sends there can be
// read, what is written there arrives in the namespace: whole IP packets, with all checksums.
type tun struct {
	file *os.File // for reading: waits in the runtime's poller
	fd   int      // the same, for writing: never waits
}

// openTUN makes a device and opens it. It is called on the thread of the namespace.
func openTUN() (*tun, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(device)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI) // no header before a packet, so no offloads either
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a TUN device: %w", err)
	}
	return &tun{os.NewFile(uintptr(fd), device), fd}, nil
}

// up gives the device its address and sends everything else there.
func (t *tun) up(ns *namespace, addr netip.Addr) error {
	return ns.ip(
		"link set lo up",
		fmt.Sprintf("link set %s mtu %d txqueuelen 10000 up", device, mtu),
		fmt.Sprintf("addr add %s/32 dev %s", addr, device),
		fmt.Sprintf("route add default dev %s", device),
	)
}

// move replaces the device's address.
func (t *tun) move(ns *namespace, from, to netip.Addr) error {
	return ns.ip(
		fmt.Sprintf("addr add %s/32 dev %s", to, device),
		fmt.Sprintf("addr del %s/32 dev %s", from, device),
		fmt.Sprintf("route replace default dev %s", device),
	)
}

// write hands a packet to the namespace. What it can't take is lost, as on a real wire.
func (t *tun) write(b []byte) { _, _ = unix.Write(t.fd, b) }
