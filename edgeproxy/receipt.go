package edgeproxy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/sfv"
)

// The levels of detail of a receipt.
const (
	ReceiptFull   = "full"   // everything
	ReceiptRegion = "region" // entry, region, start, reason and id
	ReceiptOff    = "off"    // none
)

// ReceiptHeader is the response header field that carries a Receipt. At the full level, a response that
// left while its guest still ran, and has no Content-Length, carries the last word in a trailer field of
// the same name.
const ReceiptHeader = "Perigee-Receipt"

// paramPartial is the parameter of the key fuel that stands for Receipt.Partial.
const paramPartial = "partial"

// ReasonRefused is the reason on responses that no function gave; their body says why. All other
// reasons are those of package placement, ReasonNearer and ReasonCached.
const ReasonRefused = "refused"

// ReasonCached is the reason on responses that were stored at the entry.
const ReasonCached = "cached"

func validLevel(s string) bool { return s == ReceiptFull || s == ReceiptRegion || s == ReceiptOff }

// Receipt says where a request ran, and why there. Fields that do not apply are zero.
type Receipt struct {
	Via      perigee.Region     // of the node that passed the connection on, still encrypted; "" = the client reached the entry
	Entry    perigee.Region     // of the node that took the request
	Region   perigee.Region     // where the function ran
	Node     perigee.NodeID     // where the function ran; full level only
	Revision perigee.RevisionID // which; full level only
	Start    string             // StartWarm, StartImage or StartCold
	Reason   string             // why there
	Hop      time.Duration      // full level only, if it ran on another node: from handing the request to the mesh until the head of the response
	Fuel     uint64             // full level only: instructions used; 0 = not measured
	Partial  bool               // Fuel is what was used until the head of the response, and the guest ran on
	Limit    string             // the limit that ended the request, one of the constants Limit…
	ID       string             // of the request: 16 hexadecimal digits
}

// Format writes the receipt as an RFC 9651 dictionary, or "" for ReceiptOff.
func (r *Receipt) Format(level string) string {
	if level == ReceiptOff {
		return ""
	}
	full := level == ReceiptFull
	b := make([]byte, 0, 192)
	item := func(key, value string) {
		if value != "" {
			b = sfv.AppendItem(sfv.AppendKey(b, key), value)
		}
	}
	item("via", string(r.Via))
	item("entry", string(r.Entry))
	item("region", string(r.Region))
	if full {
		item("node", string(r.Node))
		item("rev", string(r.Revision))
	}
	item("start", r.Start)
	item("reason", r.Reason)
	if full && r.Hop > 0 {
		b = sfv.AppendMillis(sfv.AppendKey(b, "hop-ms"), r.Hop)
	}
	if full && (r.Fuel > 0 || r.Partial) {
		b = strconv.AppendUint(sfv.AppendKey(b, "fuel"), min(r.Fuel, maxInteger), 10)
		if r.Partial {
			b = append(append(b, ';'), paramPartial...)
		}
	}
	item("limit", r.Limit)
	item("id", r.ID)
	return string(b)
}

// maxInteger is the largest integer of RFC 9651, section 3.3.1.
const maxInteger = 999_999_999_999_999

// ParseReceipt reads the value of a receipt header field, of any level. Unknown keys are ignored,
// so that receipts of later releases can be read.
func ParseReceipt(s string) (Receipt, error) {
	var r Receipt
	d, err := sfv.ParseDictionary(s)
	if err != nil {
		return r, fmt.Errorf("parse receipt %.200q: %w", s, err)
	}
	r.Via, r.Entry = perigee.Region(d["via"].Text), perigee.Region(d["entry"].Text)
	r.Region = perigee.Region(d["region"].Text)
	r.Node = perigee.NodeID(d["node"].Text)
	r.Revision = perigee.RevisionID(d["rev"].Text)
	r.Start, r.Reason, r.ID, r.Limit = d["start"].Text, d["reason"].Text, d["id"].Text, d["limit"].Text
	if ms := d["hop-ms"].Number; ms > 0 && ms < 1e9 {
		r.Hop = time.Duration(ms*1000+0.5) * time.Microsecond
	}
	if f := d["fuel"].Number; f >= 1 {
		r.Fuel = uint64(f)
	}
	r.Partial = d["fuel"].Partial
	return r, nil
}

// ReceiptOf returns the receipt in the header or the trailer of a response, if there is a valid one.
func ReceiptOf(h http.Header) (Receipt, bool) {
	values := h[ReceiptHeader]
	if len(values) == 0 {
		return Receipt{}, false
	}
	r, err := ParseReceipt(strings.Join(values, ", "))
	return r, err == nil
}
