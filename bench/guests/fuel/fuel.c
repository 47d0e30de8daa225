// Work in C whose cost the benchmark compares with and without fuel: the same exports as main.go.
// testdata/fuel-c.wasm is this file, built with clang 19, lld 19 and wasi-libc:
//
//   clang-19 --target=wasm32-wasi -O2 -mexec-model=reactor -Wl,--strip-all -o ../../testdata/fuel-c.wasm fuel.c
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name)))

static __attribute__((noinline)) int32_t fib(int32_t n) {
  if (n < 2) return n;
  int32_t first = fib(n - 1);
  __asm__ volatile("" : "+r"(first)); // or half of the recursion becomes a loop
  return first + fib(n - 2);
}

EXPORT(fib) int32_t run_fib(int32_t n) { return fib(n); }

EXPORT(empty) int32_t empty(int32_t n) {
  for (int32_t i = n; i > 0; i--) __asm__ volatile("");
  return 0;
}

static uint32_t words[1 << 14];

EXPORT(update) int32_t update(int32_t n) {
  for (int32_t i = n; i > 0; i--) {
    words[i & 0x3fff] = words[i & 0x3fff] * 1664525 + 1013904223;
    __asm__ volatile("" ::: "memory"); // or the loop is unrolled
  }
  return words[1];
}

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

static __attribute__((noinline)) void block(uint32_t h[8], const uint8_t *p) {
  uint32_t w[64];
  for (int i = 0; i < 16; i++) w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
  for (int i = 16; i < 64; i++) {
    uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3, s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], x = h[7];
  for (int i = 0; i < 64; i++) {
    uint32_t t1 = x + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
    uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    x = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += x;
}

static uint8_t buffer[4096];

EXPORT(sha256) int32_t sha256(int32_t n) {
  uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (; n > 0; n--) {
    for (int i = 0; i < 4096; i += 64) block(h, buffer + i);
    memcpy(buffer, h, 32);
  }
  return h[0];
}

// A JSON reader that makes a tree, and a writer of the tree.
typedef struct value {
  char kind; // { [ " 0 t
  char *text;
  double number;
  struct value *first, *next;
  char *key;
} value;

static const char *at;

static void space(void) {
  while (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r') at++;
}

static char *string(void) {
  const char *from = ++at;
  while (*at != '"') at += *at == '\\' ? 2 : 1;
  char *s = malloc(at - from + 1), *to = s;
  for (; from < at; from++) {
    if (*from == '\\') {
      from++;
      *to++ = *from == 'n' ? '\n' : *from;
    } else {
      *to++ = *from;
    }
  }
  *to = 0;
  at++;
  return s;
}

static value *parse(void) {
  value *v = calloc(1, sizeof *v);
  space();
  switch (v->kind = *at) {
  case '{':
  case '[': {
    value **last = &v->first;
    for (at++, space(); *at != '}' && *at != ']';) {
      char *key = 0;
      if (v->kind == '{') {
        key = string();
        space();
        at++; // :
      }
      *last = parse();
      (*last)->key = key;
      last = &(*last)->next;
      space();
      if (*at == ',') at++, space();
    }
    at++;
    break;
  }
  case '"':
    v->text = string();
    break;
  case 't':
    at += 4;
    break;
  default: {
    char *end;
    v->kind = '0';
    v->number = strtod(at, &end);
    at = end;
  }
  }
  return v;
}

static char *out;

static void quote(const char *s) {
  *out++ = '"';
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') *out++ = '\\', *out++ = *s;
    else if (*s == '\n') *out++ = '\\', *out++ = 'n';
    else *out++ = *s;
  }
  *out++ = '"';
}

static void write(const value *v) {
  switch (v->kind) {
  case '{':
  case '[':
    *out++ = v->kind;
    for (const value *i = v->first; i; i = i->next) {
      if (i != v->first) *out++ = ',';
      if (i->key) quote(i->key), *out++ = ':';
      write(i);
    }
    *out++ = v->kind == '{' ? '}' : ']';
    break;
  case '"':
    quote(v->text);
    break;
  case 't':
    memcpy(out, "true", 4), out += 4;
    break;
  default:
    out += snprintf(out, 32, "%.17g", v->number);
  }
}

static void drop(value *v) {
  for (value *i = v->first, *next; i; i = next) next = i->next, drop(i);
  free(v->key), free(v->text), free(v);
}

EXPORT(json) int32_t json(int32_t n) {
  static const char text[] = "[{\"id\":1,\"name\":\"first \\\"thing\\\"\",\"price\":12.5,\"tags\":[\"a\",\"b\",\"c\"],\"more\":{\"k\":\"v\",\"l\":\"w\"}},"
                             "{\"id\":2,\"name\":\"second thing\\n\",\"price\":1000000000,\"tags\":[\"d\"],\"more\":{\"x\":\"y\"},\"ok\":true}]";
  static char made[1024];
  int32_t size = 0;
  for (; n > 0; n--) {
    at = text;
    value *v = parse();
    out = made;
    write(v);
    drop(v);
    size += out - made;
  }
  return size;
}

enum { side = 48 };
static double a[side][side], b[side][side], c[side][side];

EXPORT(matrix) int32_t matrix(int32_t n) {
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) a[i][j] = i + j, b[i][j] = i - j;
  for (; n > 0; n--)
    for (int i = 0; i < side; i++)
      for (int j = 0; j < side; j++) {
        double s = 0;
        for (int k = 0; k < side; k++) s += a[i][k] * b[k][j];
        c[i][j] += s;
      }
  return c[3][5];
}
