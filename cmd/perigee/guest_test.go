package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// guests are functions of a few bytes, by what they do: the code of handle_request, as one would
// write it by hand. They import what imported names, in this order.
var guests = map[string]string{
	// answers "hi" and a line end
	"hello": "\x41\x01\x41\x00\x41\x03\x10\x00" + stop, // write_body(response, 0, 3)
	// answers it, to be stored for ten minutes and purged as "greeting"
	"caches": "\x41\x01\x41\x03\x41\x0d\x41\x10\x41\x0b\x10\x03\x41\x01\x41\x1b\x41\x09\x41\x24\x41\x08\x10\x03\x41\x01\x41\x00\x41\x03\x10\x00" + stop, // set_header_value(response, …), twice; write_body(response, 0, 3)
	// logs "hi" and a line end at level info, and answers it
	"talks": "\x41\x00\x41\x00\x41\x02\x10\x02\x41\x01\x41\x00\x41\x03\x10\x00" + stop, // log(info, 0, 2); write_body(response, 0, 3)
	// answers 64 KiB two times, so that the head leaves while it runs
	"streams": "\x41\x01\x41\x00\x41\x80\x80\x04\x10\x00\x41\x01\x41\x00\x41\x80\x80\x04\x10\x00" + stop,
	// hits an unreachable instruction
	"traps": "\x00",
	// never ends
	"loops": "\x03\x40\x0c\x00\x0b" + stop,
	// exits with status 3 before it has answered
	"exits": "\x41\x03\x10\x01" + stop,
	// answers 64 KiB for ever, more than any limit
	"floods": "\x03\x40\x41\x01\x41\x00\x41\x80\x80\x04\x10\x00\x0c\x00\x0b" + stop,
}

const stop = "\x42\x00" // i64.const 0: the response is complete

// guest NAME DIR makes a function's directory: the module, and a manifest with the lines of DIR.toml, if
// there is one, after name and wasm.
func writeGuest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || guests[args[0]] == "" {
		ts.Fatalf("usage: guest hello|caches|talks|streams|traps|loops|exits|floods DIR")
	}
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "f.wasm"), module(guests[args[0]]), 0o644))
	manifest := "name = \"" + filepath.Base(dir) + "\"\nwasm = \"f.wasm\"\n"
	if more, err := os.ReadFile(dir + ".toml"); err == nil {
		manifest += string(more)
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(manifest), 0o644))
}

// module is an http-wasm handler whose handle_request is code.
func module(code string) []byte {
	body := func(code string) string { return sized("\x00" + code + "\x0b") } // no locals
	text := "\x00asm\x01\x00\x00\x00"
	for _, s := range []struct {
		id    byte
		items []string
	}{
		{1, []string{"\x60\x03\x7f\x7f\x7f\x00", "\x60\x01\x7f\x00", "\x60\x00\x01\x7e", "\x60\x02\x7f\x7f\x00", "\x60\x05\x7f\x7f\x7f\x7f\x7f\x00"}},
		{2, []string{sized("http_handler") + sized("write_body") + "\x00\x00", sized("wasi_snapshot_preview1") + sized("proc_exit") + "\x00\x01", sized("http_handler") + sized("log") + "\x00\x00", sized("http_handler") + sized("set_header_value") + "\x00\x04"}},
		{3, []string{"\x02", "\x03"}},
		{5, []string{"\x00\x01"}},
		{7, []string{sized("memory") + "\x02\x00", sized("handle_request") + "\x00\x04", sized("handle_response") + "\x00\x05"}},
		{10, []string{body(code), body("")}},
		{11, []string{"\x00\x41\x00\x0b" + sized("hi\nCache-Controlmax-age=600Cache-Taggreeting")}},
	} {
		text += string(s.id) + sized(string(rune(len(s.items)))+strings.Join(s.items, ""))
	}
	return []byte(text)
}

// sized puts a length before s.
func sized(s string) string {
	return string(slices.Concat(binary.AppendUvarint(nil, uint64(len(s))), []byte(s)))
}
