package httpwasm

import (
	"context"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// function is one import of the ABI. Its arguments are on the stack, its result replaces the first.
type function struct {
	name, sig string // signature: "iii:I" is (i32, i32, i32) -> i64
	run       func(c *Call, mod api.Module, stack []uint64)
}

var functions = []function{
	{"enable_features", "i:i", (*Call).enableFeatures},
	{"get_config", "ii:i", (*Call).getConfig},
	{"log_enabled", "i:i", (*Call).logEnabled},
	{"log", "iii:", (*Call).log},
	{"get_method", "ii:i", (*Call).getMethod},
	{"set_method", "ii:", (*Call).setMethod},
	{"get_uri", "ii:i", (*Call).getURI},
	{"set_uri", "ii:", (*Call).setURI},
	{"get_protocol_version", "ii:i", (*Call).getProtocolVersion},
	{"get_source_addr", "ii:i", (*Call).getSourceAddr},
	{"get_header_names", "iii:I", (*Call).getHeaderNames},
	{"get_header_values", "iiiii:I", (*Call).getHeaderValues},
	{"set_header_value", "iiiii:", (*Call).setHeaderValue},
	{"add_header_value", "iiiii:", (*Call).addHeaderValue},
	{"remove_header", "iii:", (*Call).removeHeader},
	{"read_body", "iii:I", (*Call).readBody},
	{"write_body", "iii:", (*Call).writeBody},
	{"get_status_code", ":i", (*Call).getStatusCode},
	{"set_status_code", "i:", (*Call).setStatusCode},
}

// modules are the import modules.
var modules = map[string][]function{Module: functions, Extension: extension}

// Signatures returns the functions that a guest may import from Module or Extension, each with its
// signature written as "iii:I" for (i32, i32, i32) -> i64.
func Signatures(module string) map[string]string {
	out := map[string]string{}
	for _, f := range modules[module] {
		out[f.name] = f.sig
	}
	return out
}

// Instantiate makes the host modules in a runtime. Once is enough for all guests.
func Instantiate(ctx context.Context, r wazero.Runtime) error {
	for name, functions := range modules {
		if err := instantiate(ctx, r, name, functions); err != nil {
			return err
		}
	}
	return nil
}

func instantiate(ctx context.Context, r wazero.Runtime, name string, functions []function) error {
	b := r.NewHostModuleBuilder(name)
	for _, f := range functions {
		params, results, _ := strings.Cut(f.sig, ":")
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			c := ctx.Value(key{}).(*Call)
			if ctx.Err() != nil { // the request is over
				c.Fail(context.Cause(ctx))
			}
			f.run(c, mod, stack)
		}), valueTypes(params), valueTypes(results)).Export(f.name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("instantiate %s: %w", name, err)
	}
	return nil
}

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
