package node

import (
	"fmt"
	"net/http"

	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

// mayRead says whether the caller of the administration API may see what a function logged and used:
// over the socket everybody, over the mesh operators, and those who may deploy it.
func (n *Node) mayRead(r *http.Request) func(function string) error {
	pub, ok := peerlink.PersonFrom(r.Context())
	if !ok {
		return func(string) error { return nil }
	}
	p, known := n.gossip.Person(record.KeyIDOf(pub))
	return func(function string) error {
		switch {
		case known && p.Role == record.TokenOperator:
			return nil
		case known && p.Role == record.TokenDeploy && !p.Scope.PlacementOnly && p.Scope.AllowsFunction(function):
			return nil
		}
		return &gossip.RefusedError{Rule: gossip.RuleScope, Text: fmt.Sprintf("this key may not deploy %q, so it may not see its logs and usage: ask an operator for a wider token", function)}
	}
}
