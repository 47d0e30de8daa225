package perigee

import "time"

// Manifest is what the author of a function declares in perigee.toml. Its fields are listed and
// explained in docs/manifest.md. It becomes part of a signed revision, so that every node can
// check who asked for what.
type Manifest struct {
	Name      string            `toml:"name" json:"name"`
	Build     string            `toml:"build" json:"build,omitempty"`         // shell command that makes Wasm; run on the author's machine only
	Wasm      string            `toml:"wasm" json:"wasm"`                     // path of the module, relative to the manifest
	Files     string            `toml:"files" json:"files,omitempty"`         // path of the directory of static files; "" = none
	Next      string            `toml:"next" json:"next,omitempty"`           // what an http-wasm handler wraps: "files", the default, an origin ("https://host:port") or "fn:<name>"
	Isolation string            `toml:"isolation" json:"isolation,omitempty"` // "request", the default, "fresh" or "shared"
	Secrets   []string          `toml:"secrets" json:"secrets,omitempty"`     // names of values that the guest gets in its environment
	Outbound  []string          `toml:"outbound" json:"outbound,omitempty"`   // origins that the guest may call: "https://host", "https://*.host", "fn:<name>"; none = no calls
	Health    string            `toml:"health" json:"health,omitempty"`       // path that must answer while a new revision is tried; "" = none is asked
	Receipt   string            `toml:"receipt" json:"receipt,omitempty"`     // "full", "region" or "off"; "" = the node's setting
	Steer     string            `toml:"steer" json:"steer,omitempty"`         // what clients may ask for: "off", "prefer" (the default) or "force"
	Routes    []Route           `toml:"route" json:"routes,omitempty"`        // none = the root of <name>.<cluster domain>
	Limits    Limits            `toml:"limits" json:"limits"`
	Placement Policy            `toml:"placement" json:"placement"`
	Cache     Cache             `toml:"cache" json:"cache,omitzero"` // the zero Cache: every request runs the function
	Env       map[string]string `toml:"env" json:"env,omitempty"`
}

// Route is a part of the URL space that a function answers: a host and a path prefix.
type Route struct {
	Host string `toml:"host" json:"host,omitempty"` // "" = <name>.<cluster domain>
	Path string `toml:"path" json:"path,omitempty"` // "" = "/"; matches whole path segments, the longest wins
}

// Limits bounds one request, and all requests of a function on one node together.
type Limits struct {
	Memory      Bytes    `toml:"memory" json:"memory"`           // linear memory; default DefaultMemory
	Timeout     Duration `toml:"timeout" json:"timeout"`         // wall time; default DefaultTimeout, 0 = none
	Fuel        uint64   `toml:"fuel" json:"fuel"`               // instructions of one request; 0 = unlimited
	Concurrency int      `toml:"concurrency" json:"concurrency"` // requests at once per node; 0 = the node decides

	Rate RateLimit `toml:"rate" json:"rate,omitzero"` // requests of one client, on each gateway
}

// RateLimit bounds how many requests of one key a gateway takes. The zero RateLimit bounds nothing.
type RateLimit struct {
	Key      string   `toml:"key" json:"key,omitempty"`     // "ip", the default: an IPv4 address or an IPv6 network of 64 bits; "header:<name>": the value of a field, where there is one
	Requests int      `toml:"requests" json:"requests"`     // in each Per; 0 = unlimited
	Per      Duration `toml:"per" json:"per,omitempty"`     // 0 = a second
	Burst    int      `toml:"burst" json:"burst,omitempty"` // at once, after a pause; 0 = Requests
}

// Cache has gateways answer requests from what the function answered before, as far as its responses allow it
// (RFC 9111).
type Cache struct {
	Enabled    bool     `toml:"enabled" json:"enabled,omitempty"`
	Headers    []string `toml:"headers" json:"headers,omitempty"`       // request fields that the function sees of a request that may be answered so; what it answers depends on them. "*" = all, and on those that its Vary names
	Cookies    string   `toml:"cookies" json:"cookies,omitempty"`       // CookiesBypass, the default, CookiesStrip or CookiesPass
	Heuristics bool     `toml:"heuristics" json:"heuristics,omitempty"` // a Last-Modified without a lifetime counts as one (RFC 9111, section 4.2.2)
}

// The values of Cache.Cookies: what becomes of a request with a cookie, and of a response that sets one.
const (
	CookiesBypass = "bypass" // they have nothing to do with the cache
	CookiesStrip  = "strip"  // the cookie is left out
	CookiesPass   = "pass"   // it is a field like any other
)

// MaxPurges is how many purges of a function stay known, the latest. A gateway that may have missed some drops
// all that it has stored of the function.
const MaxPurges = 256

// Purge is a wish that stored responses are not used any more.
type Purge struct {
	PurgeMatch
	ID      Digest    `json:"id"` // of its record
	Author  KeyID     `json:"author"`
	Created time.Time `json:"created"`
}

// PurgeMatch says which stored responses are not to be used any more: those for which all that is set fits.
type PurgeMatch struct {
	Function string `json:"function,omitempty"`
	Host     string `json:"host,omitempty"`
	Tag      string `json:"tag,omitempty"` // one that the response carried
}

// The limits of a manifest that names none.
const (
	DefaultMemory  = 128 * MiB
	DefaultTimeout = Duration(30 * time.Second)
)

// Revision is one immutable version of a function: a signed manifest and the digest of a bundle.
type Revision struct {
	ID       RevisionID `json:"id"`
	Manifest Manifest   `json:"manifest"`
	Bundle   Digest     `json:"bundle"`
	Size     Bytes      `json:"size"` // of the bundle
	Author   KeyID      `json:"author"`
	Created  time.Time  `json:"created"`
}

// Function is a name and the chain of its revisions. Live is never nil: a removed function is not
// in the View.
type Function struct {
	Name      string           `json:"name"`
	Live      *Revision        `json:"live"`
	Head      Digest           `json:"head"`                // the pointer record that made Live live; a new one names it as its parent
	Rollout   string           `json:"rollout,omitempty"`   // "all": the live revision runs everywhere at once; "" = in stages
	Placement *Policy          `json:"placement,omitempty"` // stands in the place of the manifest's; nil = that of Live's manifest
	Conflicts []Conflict       `json:"conflicts,omitempty"` // concurrent deploys that lost, until someone deploys again
	History   []RevisionID     `json:"history"`             // newest first, Live included
	Kept      []*Revision      `json:"kept,omitempty"`      // not live, but holders keep what they have of them: those that served before, newest first, then those of conflicts
	Contested []ContestedRoute `json:"contested,omitempty"` // routes that an earlier claim of another function holds
}

// Policy returns the placement rules that hold for the function now.
func (fn *Function) Policy() *Policy {
	if fn.Placement != nil {
		return fn.Placement
	}
	return &fn.Live.Manifest.Placement
}

// Conflict is a deploy made at the same time as the winning one, on another side of a partition.
type Conflict struct {
	Pointer  Digest     `json:"pointer"`
	Revision RevisionID `json:"revision,omitempty"` // "" = a removal
	Author   KeyID      `json:"author"`
	Created  time.Time  `json:"created"`
}

// ContestedRoute is a route that a function asked for and another has.
type ContestedRoute struct {
	Route Route  `json:"route"`
	Owner string `json:"owner"`
}

// Secret is a value of a function that only the nodes which may run it can read.
type Secret struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"` // rises with each value
	Author  KeyID     `json:"author"`
	Created time.Time `json:"created"`
	Sealed  []byte    `json:"-"` // envelope (package identity)
}
