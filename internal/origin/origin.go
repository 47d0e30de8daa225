// Package origin reads what manifests and settings say of the world outside a function: the origins that
// a function may call or stands before (Rule), where a request goes (Of), and the networks of an
// operator (Network). It brings names into one form, so that what is compared is also what is dialled.
//
// It opens no connection, looks up no name and does not know which addresses are forbidden: that is
// decided on the resolved address, in internal/egress.
package origin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
)

// Function is the scheme of another function of the cluster. Its URLs are http://<name>.internal/.
const Function = "fn"

// internalSuffix ends the host names of functions. The name is reserved for private use, so no public
// origin has it.
const internalSuffix = ".internal"

// maxText is the longest text that is looked at, in bytes.
const maxText = 1024

// Origin is a scheme, a host and a port: what a connection can be opened for.
type Origin struct {
	Scheme string // "https", "http", or Function
	Host   string // canonical: lower case, ASCII, no dot at the end, an address in its usual form; the name of a Function
	Port   uint16 // 0 for a Function
}

// Rule is an entry of a list of origins that are allowed: one origin, or all hosts below one.
type Rule struct {
	Origin
	Below bool // every host that ends in "." + Host, and not Host itself
}

// ParseRule reads an entry of a manifest: "https://host", "http://host:port", "https://*.host" (one label
// or more in place of "*") or "fn:<name>".
func ParseRule(s string) (Rule, error) {
	if len(s) > maxText {
		return Rule{}, fmt.Errorf("the origin has %d bytes: use at most %d", len(s), maxText)
	}
	if name, ok := strings.CutPrefix(s, Function+":"); ok {
		if err := perigee.CheckLabel(name); err != nil {
			return Rule{}, fmt.Errorf("%.80q: %w", s, err)
		}
		return Rule{Origin: Origin{Scheme: Function, Host: name}}, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return Rule{}, fmt.Errorf(`%.80q is no origin: write "https://host", "http://host:port" or "fn:<name>"`, s)
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#"):
		return Rule{}, fmt.Errorf("%.80q has more than scheme, host and port: an origin has no path, not even %q", s, "/")
	}
	below := false
	if rest, ok := strings.CutPrefix(u.Host, "*."); ok {
		below, u.Host = true, rest
	}
	if strings.Contains(u.Host, "*") {
		return Rule{}, fmt.Errorf(`%.80q: a "*" stands only for the first labels of a host, like "https://*.example.com"`, s)
	}
	o, err := Of(u)
	if err != nil {
		return Rule{}, fmt.Errorf("%.80q: %w", s, err)
	}
	if _, isAddr := netip.ParseAddr(o.Host); below && (isAddr == nil || o.Scheme == Function || !strings.Contains(o.Host, ".")) {
		return Rule{}, fmt.Errorf(`%.80q: a "*" must stand before a name of two labels or more, like "https://*.example.com"`, s)
	}
	return Rule{Origin: o, Below: below}, nil
}

// Allows reports whether a request to o falls under the rule.
func (r Rule) Allows(o Origin) bool {
	if r.Below {
		return o.Scheme == r.Scheme && o.Port == r.Port && strings.HasSuffix(o.Host, "."+r.Host)
	}
	return o == r.Origin
}

// Of returns where a request to u goes. Texts that different programs could take for different hosts are
// errors: user information, zones, addresses in unusual forms.
func Of(u *url.URL) (Origin, error) {
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return Origin{}, fmt.Errorf("scheme %.20q: use https or http", u.Scheme)
	case u.User != nil:
		return Origin{}, errors.New("the URL has user information before an @: send it as a header")
	case u.Opaque != "":
		return Origin{}, errors.New("the URL has no host")
	}
	o := Origin{Scheme: u.Scheme, Port: 443}
	if u.Scheme == "http" {
		o.Port = 80
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return Origin{}, fmt.Errorf("port %.20q: use 1 to 65535", p)
		}
		o.Port = uint16(n)
	} else if strings.HasSuffix(u.Host, ":") {
		return Origin{}, errors.New("a colon without a port behind it")
	}
	var err error
	if o.Host, err = canonical(u.Hostname()); err != nil {
		return Origin{}, err
	}
	name, internal := strings.CutSuffix(o.Host, internalSuffix)
	switch {
	case !internal:
		return o, nil
	case o.Scheme != "http" || o.Port != 80 || perigee.CheckLabel(name) != nil:
		return Origin{}, fmt.Errorf("host %.80q: another function is http://<name>.internal, without a port", o.Host)
	}
	return Origin{Scheme: Function, Host: name}, nil
}

// Addr returns host and port as they are dialled.
func (o Origin) Addr() string { return net.JoinHostPort(o.Host, strconv.Itoa(int(o.Port))) }

// Authority returns host and port as they stand in a URL and in a Host header: without the scheme's own
// port.
func (o Origin) Authority() string {
	host := o.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	switch {
	case o.Scheme == Function:
		return host + internalSuffix
	case o.Scheme == "https" && o.Port == 443, o.Scheme == "http" && o.Port == 80:
		return host
	}
	return o.Addr()
}

// String returns the origin as a manifest writes it.
func (o Origin) String() string {
	if o.Scheme == Function {
		return Function + ":" + o.Host
	}
	return o.Scheme + "://" + o.Authority()
}

// String returns the rule as a manifest writes it.
func (r Rule) String() string {
	if r.Below {
		return r.Scheme + "://*." + r.Authority()
	}
	return r.Origin.String()
}
