package edgeproxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// The header fields of a hop; see the package comment.
const (
	hopFunction = "Perigee-Hop-Function"
	hopRevision = "Perigee-Hop-Revision"
	hopEntry    = "Perigee-Hop-Entry"
	hopRegion   = "Perigee-Hop-Region"
	hopClient   = "Perigee-Hop-Client"
	hopCountry  = "Perigee-Hop-Country"
	hopCaller   = "Perigee-Hop-Caller"
	hopProto    = "Perigee-Hop-Proto"
	hopVersion  = "Perigee-Hop-Version"
	hopID       = "Perigee-Hop-Id"
	hopTimeout  = "Perigee-Hop-Timeout"
	hopPath     = "Perigee-Hop-Path"
	hopCold     = "Perigee-Hop-Cold"
	hopDepth    = "Perigee-Hop-Depth"
	hopFrom     = "Perigee-Hop-From"
	hopPass     = "Perigee-Hop-Pass"
	hopUpgrade  = "Perigee-Hop-Upgrade"

	hopStart   = "Perigee-Hop-Start"
	hopFuel    = "Perigee-Hop-Fuel"
	hopRun     = "Perigee-Hop-Run" // microseconds until the head of the response was there
	hopRefused = "Perigee-Hop-Refused"
	hopFault   = "Perigee-Hop-Fault"
	hopDetail  = "Perigee-Hop-Detail"
	hopLimit   = "Perigee-Hop-Limit"
)

// faultInternal is a hop's fault that is the worker's, not the guest's.
const faultInternal = "internal"

const (
	maxHopPath   = 8
	maxHopDetail = 512
	idDigits     = 16
)

// facts is what is known about a client's request wherever it runs.
type facts struct {
	id          string
	entryRegion perigee.Region
	client      string         // IP address; "" = not known
	country     string         // of the client: ISO 3166-1 alpha-2; "" = not known
	region      perigee.Region // that the client counts as; "" = that of the entry
	proto       string         // "https" or "http"
	version     string         // "HTTP/1.1" and the like, as http.Request.Proto
}

// hopMeta is what the entry node tells the worker besides the request.
type hopMeta struct {
	facts
	function string
	revision perigee.RevisionID
	entry    perigee.NodeID
	timeout  time.Duration // 0 = none
	path     []perigee.NodeID
	cold     bool
	depth    int    // see perigee.DepthFrom
	caller   string // see perigee.CallerFrom
	upgrade  string // webSocket, or "" = none
}

// put adds the metadata to the header of a hop. Fields of an earlier hop are replaced.
func (m *hopMeta) put(h http.Header) {
	values := make([]string, 0, 16) // one array for all
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set(hopFunction, m.function)
	set(hopRevision, string(m.revision))
	set(hopEntry, string(m.entry))
	set(hopRegion, string(m.entryRegion))
	set(hopProto, m.proto)
	delete(h, hopVersion)
	if m.version != "" {
		set(hopVersion, m.version)
	}
	set(hopID, m.id)
	if m.client != "" {
		set(hopClient, m.client)
	}
	delete(h, hopCountry)
	if m.country != "" {
		set(hopCountry, m.country)
	}
	delete(h, hopCaller)
	if m.region != "" {
		set(hopCaller, string(m.region))
	}
	delete(h, hopTimeout)
	if m.timeout > 0 {
		set(hopTimeout, strconv.FormatInt(max(1, m.timeout.Milliseconds()), 10))
	}
	delete(h, hopCold)
	if m.cold {
		set(hopCold, "1")
	}
	delete(h, hopDepth)
	if m.depth > 0 {
		set(hopDepth, strconv.Itoa(m.depth))
	}
	delete(h, hopFrom)
	if m.caller != "" {
		set(hopFrom, m.caller)
	}
	delete(h, hopUpgrade)
	if m.upgrade != "" {
		set(hopUpgrade, m.upgrade)
	}
	path := make([]string, len(m.path))
	for i, id := range m.path {
		path[i] = string(id)
	}
	set(hopPath, strings.Join(path, ","))
}

// parseHop reads the metadata of a hop. It is strict: nodes write it, so what is odd is wrong.
func parseHop(h http.Header) (hopMeta, error) {
	var m hopMeta
	p := hopParser{h: h}
	m.function = p.label(hopFunction, true)
	m.revision = perigee.RevisionID(p.hex(hopRevision, 64))
	m.entry = perigee.NodeID(p.label(hopEntry, true))
	m.entryRegion = perigee.Region(p.label(hopRegion, true))
	m.id = p.hex(hopID, idDigits)
	m.client = p.one(hopClient, false)
	if m.client != "" {
		if _, err := netip.ParseAddr(m.client); err != nil {
			p.fail(hopClient, "is no IP address")
		}
	}
	if m.country = p.one(hopCountry, false); m.country != "" && !isCountry(m.country) {
		p.fail(hopCountry, "is no country")
	}
	if m.region = perigee.Region(p.label(hopCaller, false)); m.region == "" {
		m.region = m.entryRegion
	}
	if m.proto = p.one(hopProto, true); m.proto != "https" && m.proto != "http" {
		p.fail(hopProto, `is neither "https" nor "http"`)
	}
	if m.version = p.one(hopVersion, false); m.version != "" {
		if _, _, ok := http.ParseHTTPVersion(m.version); !ok {
			p.fail(hopVersion, "is no version of HTTP")
		}
	}
	if t := p.one(hopTimeout, false); t != "" {
		ms, err := strconv.ParseUint(t, 10, 40)
		if err != nil || ms == 0 {
			p.fail(hopTimeout, "is no number of milliseconds")
		}
		m.timeout = time.Duration(ms) * time.Millisecond
	}
	cold := p.one(hopCold, false)
	if cold != "" && cold != "1" {
		p.fail(hopCold, `is not "1"`)
	}
	m.cold = cold == "1"
	if d := p.one(hopDepth, false); d != "" {
		if m.depth = int(d[0] - '0'); len(d) != 1 || m.depth < 1 || m.depth > perigee.MaxDepth {
			p.fail(hopDepth, "is no number of calls")
		}
	}
	m.caller = p.label(hopFrom, false)
	if m.upgrade = p.one(hopUpgrade, false); m.upgrade != "" && m.upgrade != webSocket {
		p.fail(hopUpgrade, `is not "websocket"`)
	}
	m.path = p.path(hopPath)
	return m, p.err
}

func isCountry(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}

// hopParser keeps the first error.
type hopParser struct {
	h   http.Header
	err error
}

func (p *hopParser) fail(name, why string) {
	if p.err == nil {
		p.err = fmt.Errorf("hop field %s %s: %.80q", name, why, p.h[name])
	}
}

func (p *hopParser) one(name string, required bool) string {
	v := p.h[name]
	switch {
	case len(v) > 1:
		p.fail(name, "occurs more than once")
		return ""
	case len(v) == 0 && required:
		p.fail(name, "is missing")
		return ""
	case len(v) == 0:
		return ""
	}
	if v[0] == "" {
		p.fail(name, "is empty")
	}
	return v[0]
}

func (p *hopParser) label(name string, required bool) string {
	s := p.one(name, required)
	if s != "" && perigee.CheckLabel(s) != nil {
		p.fail(name, "is no name")
	}
	return s
}

func (p *hopParser) hex(name string, most int) string {
	s := p.one(name, true)
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			p.fail(name, "has other characters than 0-9 and a-f")
			break
		}
	}
	if len(s) > most {
		p.fail(name, "is too long")
	}
	return s
}

func (p *hopParser) path(name string) []perigee.NodeID {
	s := p.one(name, true)
	if p.err != nil {
		return nil
	}
	var out []perigee.NodeID
	for id := range strings.SplitSeq(s, ",") {
		if perigee.CheckLabel(id) != nil || len(out) == maxHopPath {
			p.fail(name, "is no list of at most 8 nodes")
			return nil
		}
		out = append(out, perigee.NodeID(id))
	}
	return out
}

// dropInternal deletes all fields that start with our prefix.
func dropInternal(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, internalPrefix) {
			delete(h, name)
		}
	}
}

// dress adds to a request what its guest may know about the client and the way.
func (f *facts) dress(h http.Header, region perigee.Region, host string) {
	values := make([]string, 0, 8) // one array for all
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set(headerRegion, string(region))
	set(HeaderEntryRegion, string(f.entryRegion))
	if f.country != "" {
		set(headerClientCountry, f.country)
	}
	if f.region != "" && f.region != regionUnknown {
		set(headerClientRegion, string(f.region))
	}
	set(HeaderRequestID, f.id)
	set(headerProto, f.proto)
	set(headerHost, host)
	if f.client != "" {
		set(headerFor, f.client)
	}
}
