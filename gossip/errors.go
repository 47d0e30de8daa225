package gossip

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Rule names the check that a record failed. Callers choose a status by it; people read the text.
type Rule string

// The rules, in the order in which they are checked.
const (
	RuleShape     Rule = "shape"     // not a well-formed record of this cluster
	RuleEpoch     Rule = "epoch"     // of an epoch that a restore ended
	RuleClock     Rule = "clock"     // stamped further ahead than clocks may differ, or this node's clock is off
	RuleAuthor    Rule = "author"    // the key is not known here; it may be in a moment
	RuleSignature Rule = "signature" // the signature does not fit
	RuleRight     Rule = "right"     // the key may not write records of this kind
	RuleScope     Rule = "scope"     // the key may not touch this function or host
	RuleRevoked   Rule = "revoked"   // the key or node was revoked before
	RuleExpired   Rule = "expired"   // the token's life was over
	RuleUsed      Rule = "used"      // the token or the node's name is taken
	RuleManifest  Rule = "manifest"  // the manifest breaks a rule of its own
	RuleReference Rule = "reference" // it names a record that does not exist or does not fit
	RuleStorage   Rule = "storage"   // the log could not be written, or the state is full
)

// RefusedError says that a record was not accepted and why. None of the records submitted together
// with it were stored, except where the text says so.
type RefusedError struct {
	Rule   Rule
	Record perigee.Digest
	Text   string // what is wrong and what to do
	Err    error  // the cause; may be nil
}

// Error gives the text, and the cause where there is one.
func (e *RefusedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Text, e.Err)
	}
	return e.Text
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// RuleOf returns the rule by which err refused a record, or "".
func RuleOf(err error) Rule {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.Rule
	}
	return ""
}

// ErrForeign is returned by New when the directory holds the state of another cluster.
var ErrForeign = errors.New("the state directory belongs to another cluster")

func refuse(rule Rule, format string, args ...any) *RefusedError {
	return &RefusedError{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// The methods below return copies, since a refusal may be shared by all readers of an authority.

func (e *RefusedError) because(err error) *RefusedError {
	c := *e
	c.Err = err
	return &c
}

func (e *RefusedError) of(id perigee.Digest) *RefusedError {
	c := *e
	c.Record = id
	return &c
}

func (e *RefusedError) adding(text string) *RefusedError {
	c := *e
	c.Text += text
	return &c
}

// listText shows patterns as people wrote them.
func listText(patterns []string) string { return strings.Join(patterns, ", ") }

func timeText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 MST") }
