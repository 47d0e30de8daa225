// Package lab is a small internet on one machine. Each node is a network namespace with a TUN device
// of its own; one switch in this process reads the packets of all of them and hands them on after the
// distance between their regions, with loss, jitter, bandwidth, address translation and partitions. The
// real binary runs in the namespaces, so that a story in the lab is about the program that ships, its
// sockets, its disk and the kernel's network stack.
//
// The lab serves tests and measurements; no production path goes through it. It needs no netem, but
// Linux, the rights to make namespaces and TUN devices (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN) and the
// ip command: Supported says what is missing. What it does not simulate: its nodes share one processor,
// one clock and, unless a node gets a disk of its own, one disk. Packets are IPv4.
//
// Nothing of a lab outlives its process, however that ends: namespaces and devices have no names and go
// with their last user, and the kernel kills what runs in them. Only the directory may stay behind.
//
// The switch is network.go (who gets a packet), link.go (what happens on its way), waiting.go (until
// when) and nat.go; namespace.go, tun.go and alarm.go are what the kernel lends it. Goroutines: one thread
// and one reader for each node, and one that delivers what is due; Close ends them.
package lab
