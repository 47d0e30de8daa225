// Package wasip1 is the host side of WASI preview 1, all 46 functions of the snapshot: arguments,
// environment, standard streams, read-only files, clocks, randomness. There are no sockets, and nothing
// can be written but the standard streams.
//
// What a guest sees is a System, one for each request. The functions find it by the context of the
// guest's call (System.Context), so one instance of the host module serves all guests, and nothing of a
// request stays in an instance: wazero's own WASI fixes arguments, streams and open files when a module
// is instantiated, and proc_exit closes the module, while instances here are used again.
//
// The guest is not trusted. Pointers and lengths are checked against its memory, work and open files are
// bounded, and paths never leave "/": not by "..", nor by an absolute path, nor by a symbolic link.
//
// Answers follow the description of the snapshot, and POSIX where it is silent:
// https://github.com/WebAssembly/WASI/blob/snapshot-01/phases/snapshot/docs.md. Numbers in memory are
// little-endian. The package owns no goroutine.
package wasip1

import (
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Module is the import module of WASI preview 1.
const Module = "wasi_snapshot_preview1"

var le = binary.LittleEndian

// function is one import. Its arguments are on the stack, and its errno replaces the first.
type function struct {
	name, sig string // signature: "iiI:i" is (i32, i32, i64) -> i32
	run       func(s *System, m api.Memory, p []uint64) errno
}

var functions = []function{
	{"args_get", "ii:i", argsGet},
	{"args_sizes_get", "ii:i", argsSizesGet},
	{"clock_res_get", "ii:i", clockResGet},
	{"clock_time_get", "iIi:i", clockTimeGet},
	{"environ_get", "ii:i", environGet},
	{"environ_sizes_get", "ii:i", environSizesGet},
	{"fd_advise", "iIIi:i", fdAdvise},
	{"fd_allocate", "iII:i", fdAllocate},
	{"fd_close", "i:i", fdClose},
	{"fd_datasync", "i:i", fdDatasync},
	{"fd_fdstat_get", "ii:i", fdFdstatGet},
	{"fd_fdstat_set_flags", "ii:i", fdFdstatSetFlags},
	{"fd_fdstat_set_rights", "iII:i", fdFdstatSetRights},
	{"fd_filestat_get", "ii:i", fdFilestatGet},
	{"fd_filestat_set_size", "iI:i", fdFilestatSetSize},
	{"fd_filestat_set_times", "iIIi:i", fdFilestatSetTimes},
	{"fd_pread", "iiiIi:i", fdPread},
	{"fd_prestat_dir_name", "iii:i", fdPrestatDirName},
	{"fd_prestat_get", "ii:i", fdPrestatGet},
	{"fd_pwrite", "iiiIi:i", fdPwrite},
	{"fd_read", "iiii:i", fdRead},
	{"fd_readdir", "iiiIi:i", fdReaddir},
	{"fd_renumber", "ii:i", fdRenumber},
	{"fd_seek", "iIii:i", fdSeek},
	{"fd_sync", "i:i", fdSync},
	{"fd_tell", "ii:i", fdTell},
	{"fd_write", "iiii:i", fdWrite},
	{"path_create_directory", "iii:i", pathCreateDirectory},
	{"path_filestat_get", "iiiii:i", pathFilestatGet},
	{"path_filestat_set_times", "iiiiIIi:i", pathFilestatSetTimes},
	{"path_link", "iiiiiii:i", pathLink},
	{"path_open", "iiiiiIIii:i", pathOpen},
	{"path_readlink", "iiiiii:i", pathReadlink},
	{"path_remove_directory", "iii:i", pathRemoveDirectory},
	{"path_rename", "iiiiii:i", pathRename},
	{"path_symlink", "iiiii:i", pathSymlink},
	{"path_unlink_file", "iii:i", pathUnlinkFile},
	{"poll_oneoff", "iiii:i", pollOneoff},
	{"proc_exit", "i:", procExit},
	{"proc_raise", "i:i", procRaise},
	{"random_get", "ii:i", randomGet},
	{"sched_yield", ":i", schedYield},
	{"sock_accept", "iii:i", sockNone},
	{"sock_recv", "iiiiii:i", sockNone},
	{"sock_send", "iiiii:i", sockNone},
	{"sock_shutdown", "ii:i", sockNone},
}

// Signatures returns the functions that a guest may import from Module, each with its signature
// written as "iiI:i" for (i32, i32, i64) -> i32.
func Signatures() map[string]string {
	out := make(map[string]string, len(functions))
	for _, f := range functions {
		out[f.name] = f.sig
	}
	return out
}

// Instantiate makes the host module in a runtime. Once is enough for all guests.
func Instantiate(ctx context.Context, r wazero.Runtime) error {
	b := r.NewHostModuleBuilder(Module)
	for _, f := range functions {
		params, results, _ := strings.Cut(f.sig, ":")
		run := f.run
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			s := ctx.Value(key{}).(*System)
			s.check()
			m := mod.Memory()
			if reflect.ValueOf(m).IsNil() { // the guest has none: no pointer is valid
				m = nowhere{}
			}
			stack[0] = uint64(run(s, m, stack))
		}), valueTypes(params), valueTypes(results)).Export(f.name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("instantiate %s: %w", Module, err)
	}
	return nil
}

// nowhere is the memory of a guest that has none. Of an api.Memory it has what is used here.
type nowhere struct{ api.Memory }

func (nowhere) Read(uint32, uint32) ([]byte, bool) { return nil, false }
func (nowhere) WriteUint32Le(uint32, uint32) bool  { return false }
func (nowhere) WriteUint64Le(uint32, uint64) bool  { return false }

func valueTypes(s string) []api.ValueType {
	out := make([]api.ValueType, len(s))
	for i := range s {
		out[i] = api.ValueTypeI32
		if s[i] == 'I' {
			out[i] = api.ValueTypeI64
		}
	}
	return out
}
