// Command fuel is work in Go whose cost the benchmark compares with and without fuel. Each export takes
// a number of rounds and returns something that depends on all of them.
package main

import (
	"crypto/sha256"
	"encoding/json"
)

func main() {}

func fib(n int32) int32 {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

//go:wasmexport fib
func runFib(n int32) int32 { return fib(n) }

//go:noinline
func next(i int32) int32 { return i - 1 }

//go:wasmexport empty
func empty(n int32) int32 {
	for i := next(n + 1); i > 0; i-- {
	}
	return 0
}

var buffer [1 << 16]byte
var words [1 << 14]uint32

//go:wasmexport update
func update(n int32) int32 {
	for i := n; i > 0; i-- {
		words[i&0x3fff] = words[i&0x3fff]*1664525 + 1013904223
	}
	return int32(words[1])
}

//go:wasmexport sha256
func hash(n int32) int32 {
	var sum [32]byte
	for range n {
		sum = sha256.Sum256(buffer[:4096])
		copy(buffer[:], sum[:])
	}
	return int32(sum[0])
}

type item struct {
	ID    int               `json:"id"`
	Name  string            `json:"name"`
	Price float64           `json:"price"`
	Tags  []string          `json:"tags"`
	More  map[string]string `json:"more"`
}

//go:wasmexport json
func jsonRounds(n int32) int32 {
	items := []item{
		{1, "first \"thing\"", 12.5, []string{"a", "b", "c"}, map[string]string{"k": "v", "l": "w"}},
		{2, "second thing\n", 1e9, []string{"d"}, map[string]string{"x": "y"}},
	}
	size := 0
	for range n {
		b, err := json.Marshal(items)
		if err != nil {
			return -1
		}
		var back []item
		if err := json.Unmarshal(b, &back); err != nil {
			return -2
		}
		size += len(b) + len(back)
	}
	return int32(size)
}

const side = 48

var a, b, c [side][side]float64

//go:wasmexport matrix
func matrix(n int32) int32 {
	for i := range side {
		for j := range side {
			a[i][j], b[i][j] = float64(i+j), float64(i-j)
		}
	}
	for range n {
		for i := range side {
			for j := range side {
				s := 0.0
				for k := range side {
					s += a[i][k] * b[k][j]
				}
				c[i][j] += s
			}
		}
	}
	return int32(c[3][5])
}
