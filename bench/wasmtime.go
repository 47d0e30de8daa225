package main

// #include <stdlib.h>
// #include "bench_wasmtime.h"
import "C"

import (
	"fmt"
	"unsafe"

	_ "github.com/bytecodealliance/wasmtime-go/v39" // the library; its C interface reaches more of it
)

// wasmtime is a module in wasmtime: an instance a request, from a pre-linked module.
type wasmtime struct{ peer *C.peer }

// newWasmtime compiles a module, for instances that have to be initialised or not, from memory that is
// mapped for each, or from a pool that keeps some bytes of each instance resident.
func newWasmtime(wasm []byte, initialize bool, pooling int) (*wasmtime, error) {
	why := make([]byte, 500)
	first := C.int(0)
	if initialize {
		first = 1
	}
	peer := C.peer_new((*C.uint8_t)(&wasm[0]), C.size_t(len(wasm)), C.int(pooling), first, (*C.char)(unsafe.Pointer(&why[0])), C.size_t(len(why)))
	if peer == nil {
		return nil, fmt.Errorf("wasmtime: %s", C.GoString((*C.char)(unsafe.Pointer(&why[0]))))
	}
	return &wasmtime{peer}, nil
}

func (w *wasmtime) request(in []byte) ([]byte, error) {
	answer, why := make([]byte, bufferSize), make([]byte, 500)
	n := C.peer_request(w.peer, (*C.uint8_t)(&in[0]), C.size_t(len(in)), (*C.uint8_t)(&answer[0]), C.size_t(len(answer)), (*C.char)(unsafe.Pointer(&why[0])), C.size_t(len(why)))
	if n < 0 {
		return nil, fmt.Errorf("wasmtime: %s", C.GoString((*C.char)(unsafe.Pointer(&why[0]))))
	}
	return answer[:n], nil
}

func (w *wasmtime) close() { C.peer_delete(w.peer) }
