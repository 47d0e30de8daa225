package mutant

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestInvariants requires that each invariant of the cluster is a property test that a mutant breaks.
func TestInvariants(t *testing.T) {
	for invariant, test := range map[string]struct{ list, name string }{
		"replicas are equal after quiescence":    {"cluster", "TestReplicasEqual"},
		"acknowledged revisions are present":     {"cluster", "TestAcknowledgedPresent"},
		"one winner everywhere":                  {"cluster", "TestOneWinner"},
		"no bytes outside the residency":         {"residency", "TestResidency"},
		"nothing forged or replayed is taken in": {"cluster", "TestByzantine"},
	} {
		b, err := os.ReadFile("../sim/" + test.list + "/testdata/mutants.txt")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(strings.Split(string(b), "\n"), func(line string) bool { return strings.HasSuffix(line, "\t"+test.name) }) {
			t.Errorf("%s: no mutant breaks %s", invariant, test.name)
		}
	}
}
