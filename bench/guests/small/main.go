// Command small is a reactor that does little: it counts the words of a text and answers with the longest
// in capitals. It calls nothing of its host but WASI.
package main

import (
	"strconv"
	"strings"
	"unsafe"
)

func main() {}

var buffer [64 << 10]byte

//go:wasmexport buffer
func exportBuffer() int32 { return int32(uintptr(unsafe.Pointer(&buffer))) }

// handle answers the request in the buffer's first n bytes, and returns the length of the answer there.
//
//go:wasmexport handle
func handle(n int32) int32 {
	words := strings.Fields(string(buffer[:n]))
	longest := ""
	for _, w := range words {
		if len(w) > len(longest) {
			longest = w
		}
	}
	return int32(copy(buffer[:], strconv.Itoa(len(words))+" "+strings.ToUpper(longest)))
}
