package bundle

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/origin"
	"github.com/perigee-edge/perigee/internal/strict"
)

// Values of the manifest's enumerations that this release obeys as defaults.
const (
	nextFiles        = "files"
	isolationRequest = "request"
	steerPrefer      = "prefer"
)

// Bounds of a manifest, the same when it is written and when a node reads it.
const (
	wasmPage       = 64 * perigee.KiB
	maxMemory      = 4 * perigee.GiB
	maxConcurrency = 100_000
	maxRate        = 1_000_000
	minRatePer     = perigee.Duration(time.Second)
	maxRatePer     = perigee.Duration(24 * time.Hour)
	maxBuild       = 4096 // bytes
	maxPath        = 1024 // bytes, of a file or a route
	maxRoutes      = 100
	maxEnv         = 32 * perigee.KiB
	maxTerms       = 256 // places in one list
	maxHolders     = 100_000
	maxCallerRules = 32
	maxOutbound    = 100
	maxSecrets     = 64
	maxKeyed       = 16
)

// CheckManifest holds a manifest against all rules that need no cluster, and against the names of
// places if regions is not nil. The error lists everything that is wrong.
//
// The rules are the same for whoever writes a manifest and for a node that reads one out of a
// signed record. An empty enumeration ("" for steer, say) means its default.
func CheckManifest(m *perigee.Manifest, regions *perigee.Regions) error {
	c := checker{regions: regions}
	c.identity(m)
	c.routes(m.Routes)
	c.limits(&m.Limits)
	c.policy(&m.Placement)
	c.cache(&m.Cache)
	c.env(m.Env)
	return c.problems.Err()
}

type checker struct {
	regions  *perigee.Regions
	problems strict.Problems
}

func (c *checker) add(key, format string, args ...any) { c.problems.Add(key, format, args...) }

func (c *checker) identity(m *perigee.Manifest) {
	if err := perigee.CheckLabel(m.Name); err != nil {
		c.add("name", "%v", err)
	}
	if len(m.Build) > maxBuild {
		c.add("build", "the command has %d bytes: use at most %d, or put it in a script", len(m.Build), maxBuild)
	}
	if strings.ContainsRune(m.Build, 0) {
		c.add("build", "the command contains a NUL byte: remove it")
	}
	if err := checkPath(m.Wasm); err != nil {
		c.add("wasm", "%v", err)
	}
	if m.Files != "" {
		if err := checkPath(m.Files); err != nil {
			c.add("files", "%v", err)
		}
	}
	if m.Health != "" {
		if err := checkRoutePath(m.Health); err != nil {
			c.add("health", "%v", err)
		}
	}
	c.choice("receipt", m.Receipt, "full", "region", "off")
	c.choice("steer", m.Steer, "off", steerPrefer, "force")
	c.choice("isolation", m.Isolation, isolationRequest, "fresh", "shared")
	c.next(m.Next)
	c.outbound(m.Outbound)
	c.secrets(m)
}

// secrets checks the names of secrets, which become names of the environment.
func (c *checker) secrets(m *perigee.Manifest) {
	if len(m.Secrets) > maxSecrets {
		c.add("secrets", "there are %d: use at most %d", len(m.Secrets), maxSecrets)
		return
	}
	for i, name := range m.Secrets {
		key := fmt.Sprintf("secrets[%d]", i)
		_, both := m.Env[name]
		switch err := perigee.CheckEnvName(name); {
		case err != nil:
			c.add(key, "%v", err)
		case slices.Index(m.Secrets, name) < i:
			c.add(key, "%q is named twice: remove one", name)
		case both:
			c.add(key, "%q is a key of env, too: remove it there, where everybody can read it", name)
		}
	}
}

// next checks what the function stands before: one origin, one function, or the files.
func (c *checker) next(s string) {
	if s == "" || s == nextFiles {
		return
	}
	r, err := origin.ParseRule(s)
	switch {
	case err != nil:
		c.add("next", `%v; or use "files"`, err)
	case r.Below:
		c.add("next", "%s stands for many hosts: name one", quote(s))
	}
}

// outbound checks the origins that the function may call.
func (c *checker) outbound(list []string) {
	if len(list) > maxOutbound {
		c.add("outbound", "there are %d origins: use at most %d, or one with a *", len(list), maxOutbound)
		return
	}
	seen := map[origin.Rule]int{}
	for i, s := range list {
		key := fmt.Sprintf("outbound[%d]", i)
		r, err := origin.ParseRule(s)
		if err != nil {
			c.add(key, "%v", err)
			continue
		}
		if first, dup := seen[r]; dup {
			c.add(key, "%s is outbound[%d] again: remove one of them", quote(s), first)
			continue
		}
		seen[r] = i
	}
}

// choice refuses a value that is neither empty nor one of those named.
func (c *checker) choice(key, value string, allowed ...string) {
	if value == "" || slices.Contains(allowed, value) {
		return
	}
	c.add(key, "%s is not a choice: use %s%s", quote(value), list(allowed), didYouMean(value, allowed))
}

func (c *checker) routes(routes []perigee.Route) {
	if len(routes) > maxRoutes {
		c.add("route", "there are %d routes: use at most %d, or shorter paths that cover several", len(routes), maxRoutes)
		return
	}
	seen := map[perigee.Route]int{}
	for i, r := range routes {
		key := fmt.Sprintf("route[%d]", i)
		if r.Host != "" {
			if err := perigee.CheckHost(r.Host); err != nil {
				c.add(key+".host", "%v", err)
			}
		}
		if err := checkRoutePath(r.Path); r.Path != "" && err != nil {
			c.add(key+".path", "%v", err)
		}
		if r.Path == "" {
			r.Path = "/"
		}
		if first, dup := seen[r]; dup {
			c.add(key, "host %q and path %q are those of route[%d]: remove one of them", r.Host, r.Path, first)
		} else {
			seen[r] = i
		}
	}
}

func (c *checker) limits(l *perigee.Limits) {
	switch {
	case l.Memory < wasmPage || l.Memory > maxMemory:
		c.add("limits.memory", "%s is out of range: use %s to %s", l.Memory, wasmPage, maxMemory)
	case l.Memory%wasmPage != 0:
		c.add("limits.memory", "%s is not a whole number of Wasm pages: use a multiple of %s", l.Memory, wasmPage)
	}
	if l.Timeout < 0 {
		c.add("limits.timeout", `%s is negative: use a time like "30s", or "0" for none`, l.Timeout)
	}
	if l.Concurrency < 0 || l.Concurrency > maxConcurrency {
		c.add("limits.concurrency", "%d is out of range: use 1 to %d, or 0 to let the node decide", l.Concurrency, maxConcurrency)
	}
	c.rate(&l.Rate)
}

func (c *checker) rate(l *perigee.RateLimit) {
	if l.Requests < 0 || l.Requests > maxRate {
		c.add("limits.rate.requests", "%d is out of range: use 1 to %d, or 0 for as many as come", l.Requests, maxRate)
	}
	if l.Requests == 0 && *l != (perigee.RateLimit{}) {
		c.add("limits.rate.requests", "without it, the other keys of limits.rate mean nothing: say how many, or leave them out")
	}
	if l.Per < 0 || l.Per > maxRatePer || l.Per > 0 && l.Per < minRatePer {
		c.add("limits.rate.per", `%s is out of range: use "1s" to "24h"`, l.Per)
	}
	if l.Burst < 0 || l.Burst > maxRate {
		c.add("limits.rate.burst", "%d is out of range: use 1 to %d, or 0 for as many as requests", l.Burst, maxRate)
	}
	name, field := strings.CutPrefix(l.Key, "header:")
	switch {
	case l.Key != "" && l.Key != "ip" && !field:
		c.add("limits.rate.key", `%.80q is not a choice: use "ip", or "header:" and the name of a field`, l.Key)
	case field && !isFieldName(name):
		c.add("limits.rate.key", `%.80q is no name of a header field: use at most 64 letters, digits and "-"`, name)
	}
}

// cache checks what may be answered without the function.
func (c *checker) cache(m *perigee.Cache) {
	if !m.Enabled && (len(m.Headers) > 0 || m.Cookies != "" || m.Heuristics) {
		c.add("cache.enabled", "without it, the other keys of cache mean nothing: set it to true, or leave them out")
	}
	c.choice("cache.cookies", m.Cookies, perigee.CookiesBypass, perigee.CookiesStrip, perigee.CookiesPass)
	if len(m.Headers) > maxKeyed {
		c.add("cache.headers", `there are %d: use at most %d, or "*"`, len(m.Headers), maxKeyed)
		return
	}
	for i, name := range m.Headers {
		key := fmt.Sprintf("cache.headers[%d]", i)
		switch {
		case name == "*" && len(m.Headers) > 1:
			c.add(key, `"*" stands for all: remove the others`)
		case name != "*" && !isFieldName(name):
			c.add(key, `%.80q is no name of a header field: use at most 64 letters, digits and "-"`, name)
		case slices.ContainsFunc(m.Headers[:i], func(s string) bool { return strings.EqualFold(s, name) }):
			c.add(key, "%q is named twice: remove one", name)
		}
	}
}

// isFieldName reports whether a field of that name gets through a gateway.
func isFieldName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func (c *checker) env(env map[string]string) {
	var total perigee.Bytes
	for name, value := range env {
		total += perigee.Bytes(len(name) + len(value) + len("=\x00"))
	}
	if total > maxEnv {
		c.add("env", "names and values have %d bytes together: use at most %s, and put the rest into files", total, maxEnv)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		key := "env." + name
		switch value := env[name]; {
		case perigee.CheckEnvName(name) != nil:
			c.add(key, "%v", perigee.CheckEnvName(name))
		case !utf8.ValidString(value):
			c.add(key, "the value is not UTF-8: encode it, for example as base64")
		case strings.ContainsRune(value, 0):
			c.add(key, "the value contains a NUL byte: remove it")
		}
	}
}

// checkPath reports why s is not a path that stays below the manifest's directory.
func checkPath(s string) error {
	clean := cleanPath(s)
	switch {
	case s == "":
		return fmt.Errorf("the path is missing: name a file below the directory of %s", ManifestName)
	case len(s) > maxPath:
		return fmt.Errorf("the path has %d bytes: use at most %d", len(s), maxPath)
	case strings.ContainsFunc(s, isOdd):
		return fmt.Errorf("path %s contains a backslash or an unprintable character: use '/' and printable ones", quote(s))
	case !fs.ValidPath(clean) || clean == ".":
		return fmt.Errorf("path %s: use a relative path below the directory of %s, without '..'", quote(s), ManifestName)
	}
	return nil
}

// cleanPath takes from a path what people add for clarity: "./" before it and "/" behind it.
func cleanPath(s string) string { return strings.TrimSuffix(strings.TrimPrefix(s, "./"), "/") }

// checkRoutePath reports why s can't be the path of a route. Routes are compared with the decoded
// path of a request, so '%' stands for itself and is refused to prevent a misunderstanding.
func checkRoutePath(s string) error {
	switch {
	case len(s) > maxPath:
		return fmt.Errorf("the path has %d bytes: use at most %d", len(s), maxPath)
	case !strings.HasPrefix(s, "/"):
		return fmt.Errorf("path %s does not start with '/': write %s", quote(s), quote("/"+s))
	case strings.Contains(s, "//"):
		return fmt.Errorf("path %s contains '//': use single slashes", quote(s))
	case strings.ContainsAny(s, "?#"):
		return fmt.Errorf("path %s contains '?' or '#': routes match paths only, so end it before that", quote(s))
	case strings.Contains(s, "%"):
		return fmt.Errorf("path %s contains '%%': write the character itself, not its code", quote(s))
	case strings.ContainsFunc(s, isOdd):
		return fmt.Errorf("path %s contains a backslash or an unprintable character: use '/' and printable ones", quote(s))
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "." || segment == ".." {
			return fmt.Errorf("path %s contains a segment %q, which clients resolve before they ask: remove it", quote(s), segment)
		}
	}
	return nil
}

// isOdd reports whether a rune has no place in a path: it is unprintable, or no rune at all.
func isOdd(r rune) bool { return r == '\\' || r == utf8.RuneError || !unicode.IsPrint(r) }
