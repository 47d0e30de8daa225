package placement

import "github.com/perigee-edge/perigee"

// Rendezvous hashing: each function orders all nodes by a hash of both names and takes the first
// ones. When a node leaves, only the functions it held move; every node computes the same order
// without asking anybody. The function below is part of the protocol: nodes of different releases
// must agree, so a test pins its values.

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// hashName starts a hash with the function's name (FNV-1a, 64 bits).
func hashName(function string) uint64 {
	h := uint64(fnvOffset)
	for i := range len(function) {
		h = (h ^ uint64(function[i])) * fnvPrime
	}
	return h * fnvPrime // a zero byte ends the name
}

// score ends it with the node's. FNV-1a mixes the last bytes little, and node names differ in
// their last bytes, so the finaliser of SplitMix64 follows.
func score(h uint64, node perigee.NodeID) uint64 {
	for i := range len(node) {
		h = (h ^ uint64(node[i])) * fnvPrime
	}
	return mix(h)
}

// mix is the finaliser of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
