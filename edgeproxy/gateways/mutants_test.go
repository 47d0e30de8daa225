package gateways

import (
	"testing"

	"github.com/perigee-edge/perigee/internal/mutant"
)

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }
