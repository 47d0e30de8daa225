//go:build !linux

package handover

import (
	"errors"
	"net"
)

var errSteer = errors.New("this system can't steer the packets of one port to two processes: stop the node and start it again")

// Sibling is not possible here.
func Sibling(net.PacketConn, Steering) (net.PacketConn, error) { return nil, errSteer }

// Steer is not possible here.
func Steer(net.PacketConn, Steering) error { return errSteer }

// Alone has nothing to do here.
func Alone(net.PacketConn) error { return nil }
