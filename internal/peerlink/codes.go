package peerlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// ResetCode says why one side ended a stream early. It travels in RESET_STREAM and STOP_SENDING.
type ResetCode uint64

// The reset codes. ResetLost never travels: it is what a StreamError says when the connection
// itself ended.
const (
	ResetNone     ResetCode = 0x00 // the rest is not needed
	ResetCanceled ResetCode = 0x01 // the requester gave up
	ResetInternal ResetCode = 0x02 // the handler panicked or broke its promise
	ResetProtocol ResetCode = 0x03 // the peer broke the format of this package
	ResetVersion  ResetCode = 0x04 // a frame of another version
	ResetTimeout  ResetCode = 0x05 // the request head did not arrive in time
	ResetMoved    ResetCode = 0x06 // another process of the node took over: the same on a new connection

	ResetOverloaded ResetCode = 0x10
	ResetDraining   ResetCode = 0x11
	ResetNotHere    ResetCode = 0x12
	ResetNotAllowed ResetCode = 0x13
	ResetDeadline   ResetCode = 0x14

	ResetLost ResetCode = 1 << 62
)

// String returns the code's name.
func (c ResetCode) String() string {
	switch c {
	case ResetNone:
		return "not needed"
	case ResetCanceled:
		return "canceled"
	case ResetInternal:
		return "internal error"
	case ResetProtocol:
		return "protocol error"
	case ResetVersion:
		return "unknown frame version"
	case ResetTimeout:
		return "head timeout"
	case ResetMoved:
		return "the node has restarted: try again"
	case ResetLost:
		return "connection lost"
	}
	if r, ok := refuseCode(c); ok {
		return string(r)
	}
	return fmt.Sprintf("code %#x", uint64(c))
}

// refuseCode returns the refusal that a code stands for.
func refuseCode(c ResetCode) (perigee.RefuseCode, bool) {
	switch c {
	case ResetOverloaded:
		return perigee.RefusedOverloaded, true
	case ResetDraining:
		return perigee.RefusedDraining, true
	case ResetNotHere:
		return perigee.RefusedNotHere, true
	case ResetNotAllowed:
		return perigee.RefusedNotAllowed, true
	case ResetDeadline:
		return perigee.RefusedDeadline, true
	}
	return "", false
}

// refuseReset is the inverse of refuseCode. The sender's own conclusions can't travel: a worker
// that uses one by mistake is reported as overloaded.
func refuseReset(r perigee.RefuseCode) ResetCode {
	switch r {
	case perigee.RefusedDraining:
		return ResetDraining
	case perigee.RefusedNotHere:
		return ResetNotHere
	case perigee.RefusedNotAllowed:
		return ResetNotAllowed
	case perigee.RefusedDeadline:
		return ResetDeadline
	}
	return ResetOverloaded
}

// StreamError is the failure of an exchange after the peer may have started it.
type StreamError struct {
	Code   ResetCode
	Remote bool  // the peer ended the stream
	Err    error // the cause; may be nil
}

// Error names the side, the code and the cause.
func (e *StreamError) Error() string {
	s := e.Code.String()
	if e.Code != ResetLost {
		side := "ended here"
		if e.Remote {
			side = "ended by the peer"
		}
		s = "stream " + side + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *StreamError) Unwrap() error { return e.Err }

// ErrIdentityRefused is the cause of an error when the other side did not accept this side's key or
// certificate: a wrong cluster, an expired or a revoked certificate, an unknown person.
var ErrIdentityRefused = errors.New("the node refused this key or certificate")

// ErrBusy is the cause of an error when the other side has as many connections as it takes: try again soon.
var ErrBusy = errors.New("the node has too many connections now")

// ErrClosed is returned by calls on a Link that has stopped, or a Client that was closed.
var ErrClosed = fmt.Errorf("peerlink: %w", net.ErrClosed)

// The codes with which connections are closed.
const (
	closeUnused    quic.ApplicationErrorCode = 0x00
	closeShutdown  quic.ApplicationErrorCode = 0x01
	closeRefused   quic.ApplicationErrorCode = 0x02
	closeSuspected quic.ApplicationErrorCode = 0x03
	closeTooMany   quic.ApplicationErrorCode = 0x04
)

// isMoved reports whether the other side began nothing and wants a new connection.
func isMoved(err error) bool {
	var se *StreamError
	return errors.As(err, &se) && se.Remote && se.Code == ResetMoved
}

// streamErr turns an error of a stream into a *StreamError. The end of a body, a deadline and errors
// of other origin pass unchanged.
func streamErr(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var se *quic.StreamError
	var fe *formatError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case err == io.ErrUnexpectedEOF:
		return &StreamError{Code: ResetProtocol, Err: err}
	case errors.As(err, &fe):
		return &StreamError{Code: fe.code, Err: err}
	case errors.As(err, &se):
		return &StreamError{Code: ResetCode(se.ErrorCode), Remote: se.Remote}
	case isConnErr(err):
		return &StreamError{Code: ResetLost, Err: connErr(err)}
	}
	return err
}

// isConnErr reports whether err means that the whole connection is gone.
func isConnErr(err error) bool {
	var (
		ae *quic.ApplicationError
		te *quic.TransportError
		ie *quic.IdleTimeoutError
		he *quic.HandshakeTimeoutError
		re *quic.StatelessResetError
		ve *quic.VersionNegotiationError
	)
	return errors.As(err, &ae) || errors.As(err, &te) || errors.As(err, &ie) || errors.As(err, &he) ||
		errors.As(err, &re) || errors.As(err, &ve) || errors.Is(err, quic.ErrTransportClosed)
}

// The TLS alerts that tell a client more than "refused" (RFC 8446, section 6). QUIC adds 0x100.
const (
	alertNoProtocol = 0x100 + 120
	alertInternal   = 0x100 + 80
)

// connErr explains the end of a connection to a person.
func connErr(err error) error {
	var (
		ae *quic.ApplicationError
		te *quic.TransportError
		ie *quic.IdleTimeoutError
		he *quic.HandshakeTimeoutError
		re *quic.StatelessResetError
	)
	switch {
	case errors.As(err, &te) && te.Remote && te.ErrorCode == alertNoProtocol:
		return fmt.Errorf("the node does not offer this protocol: %w", err)
	case errors.As(err, &te) && te.Remote && te.ErrorCode.IsCryptoError() && te.ErrorCode != alertInternal:
		return fmt.Errorf("%w: %w", ErrIdentityRefused, err)
	case errors.As(err, &te) && te.Remote && te.ErrorCode == quic.ConnectionRefused:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.As(err, &ae) && ae.Remote && ae.ErrorCode == closeTooMany:
		return fmt.Errorf("%w: %s", ErrBusy, ae.ErrorMessage)
	case errors.As(err, &te) && te.ErrorCode.IsCryptoError() && !te.Remote:
		return fmt.Errorf("this side refused the node's certificate: %w", err)
	case errors.As(err, &ae) && ae.Remote && ae.ErrorCode == closeRefused:
		return fmt.Errorf("%w: %s", ErrIdentityRefused, ae.ErrorMessage)
	case errors.As(err, &ae):
		side := "closed here"
		if ae.Remote {
			side = "closed by the peer"
		}
		return fmt.Errorf("connection %s: %s", side, ae.ErrorMessage)
	case errors.As(err, &ie):
		return fmt.Errorf("the peer fell silent: %w", err)
	case errors.As(err, &he), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer: is the address right and the UDP port open? (%w)", err)
	case errors.As(err, &re):
		return fmt.Errorf("the peer restarted: %w", err)
	}
	return err
}
