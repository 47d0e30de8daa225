package edgeproxy

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// The query parameters for steering. They are for clients that can't set header fields, and are
// removed from the URL that the guest sees.
const (
	queryPrefer = "perigee-prefer"
	queryForce  = "perigee-force"
)

// wish is what a client asks for. Header fields go before query parameters; force goes before prefer.
type wish struct{ prefer, force string }

// takeWish reads what the client asks for and returns the query without it.
func takeWish(h http.Header, query string) (wish, string) {
	var w wish
	if strings.Contains(query, "perigee") || strings.IndexByte(query, '%') >= 0 {
		query = w.takeQuery(query)
	}
	if v := h[headerPrefer]; len(v) > 0 {
		w.prefer = v[0]
	}
	if v := h[headerForce]; len(v) > 0 {
		w.force = v[0]
	}
	return w, query
}

// takeQuery keeps the parameters that are not ours as they are, byte for byte.
func (w *wish) takeQuery(query string) string {
	var rest []string
	found := false
	for part := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(part, "=")
		if k, err := url.QueryUnescape(key); err == nil {
			key = k
		}
		var to *string
		switch key {
		case queryPrefer:
			to = &w.prefer
		case queryForce:
			to = &w.force
		default:
			rest = append(rest, part)
			continue
		}
		found = true
		if v, err := url.QueryUnescape(value); err == nil && *to == "" {
			*to = v
		}
	}
	if !found {
		return query
	}
	return strings.Join(rest, "&")
}

// The values of a manifest's steer key.
const (
	steerOff    = "off"
	steerPrefer = "prefer" // the default
	steerForce  = "force"
)

var steerLevels = []string{steerOff, steerPrefer, steerForce} // each allows what those before it do

// steering turns a wish into a demand, as far as the function and the operator (most) allow it. A
// preference that is not allowed, or names no place, is ignored; a client that forces is told.
func steering(w wish, fn *perigee.Function, most string) (placement.Steer, *problem) {
	allowed := cmp.Or(fn.Live.Manifest.Steer, steerPrefer)
	if slices.Index(steerLevels, most) < slices.Index(steerLevels, allowed) {
		allowed = most
	}
	switch {
	case w.force != "" && allowed != steerForce:
		return placement.Steer{}, &problem{
			status: http.StatusForbidden, cause: "steer",
			what: "The function \"" + fn.Name + "\" does not let clients force a region.",
			rule: "steer = \"" + allowed + "\"",
			hint: "Ask without " + headerForce + " and " + queryForce + "; its owner, and the node's operator, may set steer = \"force\".",
		}
	case w.force != "":
		if err := perigee.CheckLabel(w.force); err != nil {
			return placement.Steer{}, &problem{
				status: http.StatusBadRequest, cause: "steer",
				what: "The region that the request forces is no region name.",
				hint: err.Error(),
			}
		}
		return placement.Steer{Mode: placement.SteerForce, Place: w.force}, nil
	case w.prefer != "" && allowed != steerOff && perigee.CheckLabel(w.prefer) == nil:
		return placement.Steer{Mode: placement.SteerPrefer, Place: w.prefer}, nil
	}
	return placement.Steer{}, nil
}
