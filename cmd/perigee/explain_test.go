package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

// TestReadmeExplains: the explanation that the README and docs/placement.md show is what the program prints
// in that cluster: three nodes, of which two have the function, and a client beside the third.
func TestReadmeExplains(t *testing.T) {
	nodes := map[perigee.NodeID]*perigee.Peer{}
	for id, warmth := range map[perigee.NodeID]perigee.Warmth{"fra-1": perigee.Warm, "wdc-1": perigee.Warm, "syd-1": perigee.Absent} {
		nodes[id] = &perigee.Peer{
			NodeClaims: perigee.NodeClaims{ID: id, Region: perigee.Region(id[:3])}, State: perigee.NodeAlive,
			Row: perigee.Row{Node: id, Revisions: map[perigee.RevisionID]perigee.Warmth{"3f9a1b2c4d5e": warmth}},
		}
	}
	fn := &perigee.Function{Name: "hello", Live: &perigee.Revision{ID: "3f9a1b2c4d5e", Manifest: perigee.Manifest{Name: "hello"}}}
	view := &perigee.View{
		Desired:  perigee.NewDesired(perigee.Desired{Regions: perigee.BuiltinRegions(), Functions: map[string]*perigee.Function{"hello": fn}}),
		Observed: &perigee.Observed{Nodes: nodes},
	}
	now := time.Now()
	report := placement.ExplainRoute(placement.Demand{Function: fn, Entry: "syd-1"}, view, func(id perigee.NodeID) placement.Fact {
		f := placement.Fact{Measured: true, LoadAt: now, Load: perigee.Load{Slots: 4, Service: 1100}}
		switch id {
		case "wdc-1":
			f.RTT = 214 * time.Millisecond
		case "fra-1":
			f.RTT = 250 * time.Millisecond
		default:
			f.Load = perigee.Load{}
		}
		return f
	}, now)
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	if err := explainRoute(cmd, &node.RouteExplanation{From: "Sydney", Client: "syd", RouteReport: report}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"../../README.md", "../../docs/placement.md"} {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(doc), "\n"+out.String()+"```\n") {
			t.Errorf("%s does not show what the program prints:\n%s", file, out.String())
		}
	}
}
