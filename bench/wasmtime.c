// Requests on fresh instances of wasmtime, by its C interface: everything that a request needs happens here,
// so that the crossing from Go, which wasmtime itself does not need, is paid once a request.
#include "wasmtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_wasmtime.h"

struct peer {
  wasm_engine_t *engine;
  wasmtime_module_t *module;
  wasmtime_linker_t *linker;
  wasmtime_instance_pre_t *pre;
  int initialize;
  int64_t buffer; // the address of the guest's buffer, which its linker chose; 0 until it has been asked
};

// failed writes what went wrong, and frees it.
static int failed(wasmtime_error_t *err, wasm_trap_t *trap, char *why, size_t room) {
  if (!err && !trap) return 0;
  wasm_byte_vec_t text;
  if (err) {
    wasmtime_error_message(err, &text);
    wasmtime_error_delete(err);
  } else {
    wasm_trap_message(trap, &text);
    wasm_trap_delete(trap);
  }
  snprintf(why, room, "%.*s", (int)text.size, text.data);
  wasm_byte_vec_delete(&text);
  return 1;
}

peer *peer_new(const uint8_t *wasm, size_t n, int pooling, int initialize, char *why, size_t room) {
  wasm_config_t *config = wasm_config_new();
  wasmtime_config_cranelift_opt_level_set(config, WASMTIME_OPT_LEVEL_SPEED);
  wasmtime_config_memory_init_cow_set(config, true);
  if (pooling) {
    wasmtime_pooling_allocation_config_t *pool = wasmtime_pooling_allocation_config_new();
    wasmtime_pooling_allocation_config_total_memories_set(pool, 16);
    wasmtime_pooling_allocation_config_total_tables_set(pool, 16);
    wasmtime_pooling_allocation_config_total_core_instances_set(pool, 16);
    wasmtime_pooling_allocation_config_max_memory_size_set(pool, 128 << 20);
    wasmtime_pooling_allocation_config_table_elements_set(pool, 100000);
    wasmtime_pooling_allocation_config_max_core_instance_size_set(pool, 1 << 20);
    wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(pool, (size_t)pooling);
    wasmtime_pooling_allocation_config_table_keep_resident_set(pool, (size_t)pooling);
    wasmtime_pooling_allocation_strategy_set(config, pool);
    wasmtime_pooling_allocation_config_delete(pool);
  }
  peer *p = calloc(1, sizeof *p);
  p->initialize = initialize;
  p->engine = wasm_engine_new_with_config(config);
  if (!p->engine) {
    snprintf(why, room, "no engine");
    free(p);
    return NULL;
  }
  p->linker = wasmtime_linker_new(p->engine);
  if (failed(wasmtime_module_new(p->engine, wasm, n, &p->module), NULL, why, room) ||
      failed(wasmtime_linker_define_wasi(p->linker), NULL, why, room) ||
      failed(wasmtime_linker_instantiate_pre(p->linker, p->module, &p->pre), NULL, why, room)) {
    peer_delete(p);
    return NULL;
  }
  return p;
}

void peer_delete(peer *p) {
  if (p->pre) wasmtime_instance_pre_delete(p->pre);
  wasmtime_linker_delete(p->linker);
  if (p->module) wasmtime_module_delete(p->module);
  wasm_engine_delete(p->engine);
  free(p);
}

// call calls an export of at most one i32 parameter and one i32 result. It returns a negative number if it fails.
static int64_t call(wasmtime_context_t *ctx, wasmtime_instance_t *instance, const char *name, const int32_t *arg, int results, char *why, size_t room) {
  wasmtime_extern_t export;
  if (!wasmtime_instance_export_get(ctx, instance, name, strlen(name), &export) || export.kind != WASMTIME_EXTERN_FUNC) {
    snprintf(why, room, "no function %s", name);
    return -1;
  }
  wasmtime_val_t in, out;
  if (arg) in = (wasmtime_val_t){.kind = WASMTIME_I32, .of.i32 = *arg};
  wasm_trap_t *trap = NULL;
  wasmtime_error_t *err = wasmtime_func_call(ctx, &export.of.func, &in, arg != NULL, &out, results, &trap);
  if (failed(err, trap, why, room)) return -1;
  return results ? (uint32_t)out.of.i32 : 0;
}

int64_t peer_request(peer *p, const uint8_t *request, size_t n, uint8_t *answer, size_t most, char *why, size_t room) {
  wasmtime_store_t *store = wasmtime_store_new(p->engine, NULL, NULL);
  wasmtime_context_t *ctx = wasmtime_store_context(store);
  int64_t got = -1;
  wasmtime_instance_t instance;
  wasm_trap_t *trap = NULL;
  if (failed(wasmtime_context_set_wasi(ctx, wasi_config_new()), NULL, why, room)) goto done;
  wasmtime_error_t *err = wasmtime_instance_pre_instantiate(p->pre, ctx, &instance, &trap);
  if (failed(err, trap, why, room)) goto done;
  if (p->initialize && call(ctx, &instance, "_initialize", NULL, 0, why, room) < 0) goto done;
  if (!p->buffer && (p->buffer = call(ctx, &instance, "buffer", NULL, 1, why, room)) < 0) goto done;
  wasmtime_extern_t memory;
  wasmtime_instance_export_get(ctx, &instance, "memory", 6, &memory);
  memcpy(wasmtime_memory_data(ctx, &memory.of.memory) + p->buffer, request, n);
  int32_t length = n;
  got = call(ctx, &instance, "handle", &length, 1, why, room);
  if (got < 0 || (size_t)got > most) goto done;
  memcpy(answer, wasmtime_memory_data(ctx, &memory.of.memory) + p->buffer, got);
done:
  wasmtime_store_delete(store);
  return got;
}
