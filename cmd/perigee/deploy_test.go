package main

import (
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

// TestWarmth checks what is said of the holders of a function, and that those which are to stay cold are
// not waited for.
func TestWarmth(t *testing.T) {
	holder := func(id perigee.NodeID, has, wanted perigee.Warmth) node.Holder {
		return node.Holder{Node: id, Warmth: has, Wanted: wanted, Planned: wanted > perigee.Absent}
	}
	for want, holders := range map[string][]node.Holder{
		"1 of 1":                      {holder("a", perigee.Warm, perigee.Warm), holder("b", perigee.Warm, perigee.Absent)},
		"1 of 2: waiting for b":       {holder("a", perigee.Warm, perigee.Warm), holder("b", perigee.Held, perigee.Warm)},
		"1 of 1, held cold on 1 more": {holder("a", perigee.Warm, perigee.Warm), holder("b", perigee.Held, perigee.Held)},
		"0 of 0, held cold on 2 more: waiting for b": {holder("a", perigee.Held, perigee.Held), holder("b", perigee.Absent, perigee.Held)},
	} {
		if got := warmth(&node.FunctionStatus{Holders: holders}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
