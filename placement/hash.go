package placement

// Rendezvous hashing: each function orders all nodes by a hash of both names and takes the first
// ones. When a node leaves, only the functions it held move; every node computes the same order
// without asking anybody. The function below is part of the protocol: nodes of different releases
// must agree, so a test pins its values.

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// hashName hashes the name of a function or of a node (FNV-1a, 64 bits).
func hashName(name string) uint64 {
	h := uint64(fnvOffset)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * fnvPrime
	}
	return h
}

// score mixes a function's hash with a node's. FNV-1a mixes the last bytes little, and names differ in
// their last bytes, so each is multiplied before and the finaliser of SplitMix64 follows.
func score(function, node uint64) uint64 { return mix(function*mixFirst ^ node*mixSecond) }

// The constants of SplitMix64's finaliser.
const (
	mixFirst  = 0xbf58476d1ce4e5b9
	mixSecond = 0x94d049bb133111eb
)

// mix is the finaliser of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * mixFirst
	h = (h ^ h>>27) * mixSecond
	return h ^ h>>31
}
