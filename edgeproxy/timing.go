package edgeproxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy/sfv"
)

// headerTiming is the field in which browsers' tools look for what took how long (W3C Server Timing).
const headerTiming = "Server-Timing"

// timing says what the time until the head of a response went to. Like the receipt at its full level it is for
// developers and operators: a stranger would learn from it how a function works.
type timing struct {
	handed time.Time     // when the try that answers was begun; zero = there was none
	run    time.Duration // on the node that ran the function, until its head was there; 0 = not known
}

// formatTiming is called when the head of the response is written; "" = the client is not told.
func (v *visit) formatTiming() string {
	if v.level != ReceiptFull {
		return ""
	}
	now := time.Now()
	entry, run := now.Sub(v.began), v.timing.run
	if !v.timing.handed.IsZero() {
		entry = v.timing.handed.Sub(v.began)
		if v.where == ranHere {
			run = now.Sub(v.timing.handed)
		}
	}
	b := sfv.AppendMillis(append(make([]byte, 0, 64), "entry;dur="...), entry)
	if v.where == ranHop {
		b = sfv.AppendMillis(append(b, ", hop;dur="...), v.receipt.Hop)
	}
	if run > 0 {
		b = append(append(append(b, ", run;desc="...), v.receipt.Start...), ";dur="...)
		b = sfv.AppendMillis(b, run)
	}
	return string(b)
}

// readRun reads how long a worker says that the function took until its head was there.
func (v *visit) readRun(h http.Header) {
	if us, err := strconv.ParseUint(h.Get(hopRun), 10, 40); err == nil {
		v.timing.run = time.Duration(us) * time.Microsecond
	}
}
