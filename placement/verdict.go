package placement

import (
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
)

// Verdict says about one node whether it is a holder, and why.
type Verdict struct {
	Node   perigee.NodeID    `json:"node"`
	Region perigee.Region    `json:"region"`
	Zone   string            `json:"zone,omitempty"`
	State  perigee.NodeState `json:"state"`
	Chosen bool              `json:"chosen"`         // it is a holder
	Warm   bool              `json:"warm,omitempty"` // it is to keep the code loaded
	Reason Reason            `json:"reason"`
	Rule   string            `json:"rule,omitempty"` // what in the manifest decided, spelled as there; "" = a default did
	Gain   uint32            `json:"gain,omitempty"` // what its callers wait less in each second since it is a holder, all together, in milliseconds
}

// Text explains the verdict in one line for people.
func (v Verdict) Text() string {
	switch v.Reason {
	case ReasonDown:
		return fmt.Sprintf("allowed, but %s", v.State)
	case ReasonDraining:
		return "allowed, but draining"
	case ReasonNoCopy, ReasonDiskFull:
		return "allowed, but " + v.Reason.Text()
	case ReasonRevoked:
		return v.Reason.Text()
	case ReasonNotAllowed:
		return "excluded by " + v.Rule
	case ReasonOverMax:
		return "allowed, but not needed: " + v.Rule + " is reached"
	case ReasonNotNeeded:
		return "allowed, but not needed: " + v.Reason.Text()
	}
	keeps := "holds it"
	if v.Warm {
		keeps = "holds it warm"
	}
	why := v.Reason.Text()
	if v.Rule != "" {
		why = v.Rule + ": " + why
	}
	if v.Gain > 0 {
		why += fmt.Sprintf(", %s in each second", milliseconds(time.Duration(v.Gain)*time.Millisecond))
	}
	if v.State == perigee.NodeSuspect {
		why += "; it did not answer lately, which alone moves nothing"
	}
	return keeps + ", " + why
}
