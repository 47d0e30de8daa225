package cache

import (
	"strconv"
	"time"
)

// FieldStatus is the response field in which caches say what they did (RFC 9211).
const FieldStatus = "Cache-Status"

// name is how this cache calls itself there.
const name = "perigee"

// Status says what was done with a request.
type Status struct {
	Hit       bool
	Forward   string // why the function was asked; "" = it was not
	Status    int    // that it answered with, if the client got another; 0 = the same
	TTL       time.Duration
	HasTTL    bool
	Stored    bool
	Collapsed bool
	Detail    string // a token; "" = none
}

// String returns the value of the field.
func (s Status) String() string {
	b := []byte(name)
	if s.Hit {
		b = append(b, "; hit"...)
	}
	if s.Forward != "" {
		b = append(append(b, "; fwd="...), s.Forward...)
	}
	if s.Status != 0 {
		b = strconv.AppendInt(append(b, "; fwd-status="...), int64(s.Status), 10)
	}
	if s.HasTTL {
		b = strconv.AppendInt(append(b, "; ttl="...), int64(s.TTL/time.Second), 10)
	}
	if s.Stored {
		b = append(b, "; stored"...)
	}
	if s.Collapsed {
		b = append(b, "; collapsed"...)
	}
	if s.Detail != "" {
		b = append(append(b, "; detail="...), s.Detail...)
	}
	return string(b)
}
