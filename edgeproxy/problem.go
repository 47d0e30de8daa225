package edgeproxy

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// problemJSON is the body of a problem for programs.
type problemJSON struct {
	Status  int    `json:"status"`
	Error   string `json:"error"`
	Rule    string `json:"rule,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Request string `json:"request"`
}

// write puts the problem into h and returns its body.
func (pr *problem) write(h http.Header, accept []string, id string) []byte {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if pr.after > 0 {
		h.Set("Retry-After", strconv.Itoa(int((pr.after+time.Second-1)/time.Second)))
	}
	if pr.location != "" {
		h.Set("Location", pr.location)
	}
	if pr.allow != "" {
		h.Set("Allow", pr.allow)
	}
	var body []byte
	if prefersJSON(accept) {
		h.Set("Content-Type", "application/json")
		body, _ = json.Marshal(problemJSON{pr.status, pr.what, pr.rule, pr.hint, id}) // strings and a number: can't fail
		body = append(body, '\n')
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		body = pr.text(id)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	return body
}

func (pr *problem) text(id string) []byte {
	var b strings.Builder
	line := func(parts ...string) {
		for _, s := range parts {
			b.WriteString(s)
		}
		b.WriteByte('\n')
	}
	line(strconv.Itoa(pr.status), " ", http.StatusText(pr.status))
	line()
	line(pr.what)
	if pr.rule != "" {
		line("Rule: ", pr.rule)
	}
	if pr.hint != "" {
		line(pr.hint)
	}
	line("Request: ", id)
	return []byte(b.String())
}

// prefersJSON reports whether an Accept header ranks JSON at least as high as text.
func prefersJSON(accept []string) bool {
	var jsonQ, textQ float64
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			kind, params, _ := strings.Cut(part, ";")
			kind = strings.ToLower(strings.TrimSpace(kind))
			switch {
			case kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"):
				jsonQ = max(jsonQ, quality(params))
			case strings.HasPrefix(kind, "text/"):
				textQ = max(textQ, quality(params))
			}
		}
	}
	return jsonQ > 0 && jsonQ >= textQ
}

// quality reads the q parameter of a media range; 1 without one, 0 for one that can't be read.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(k, "q") {
			continue
		}
		q, err := strconv.ParseFloat(v, 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}
