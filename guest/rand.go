package guest

import (
	crand "crypto/rand"
	"math/rand/v2"
)

// newRand returns a generator with a fresh seed.
func newRand() *rand.Rand {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails
	return rand.New(rand.NewChaCha8(seed))
}
