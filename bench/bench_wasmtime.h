#include <stddef.h>
#include <stdint.h>

// A module in wasmtime.
typedef struct peer peer;

// peer_new compiles a module. pooling is how many bytes of each memory the pooling allocator keeps resident, 0 = it is not used.
// initialize says whether each instance has to run _initialize. It returns NULL, and why, if it fails.
peer *peer_new(const uint8_t *wasm, size_t n, int pooling, int initialize, char *why, size_t room);

void peer_delete(peer *p);

// peer_request makes an instance, has it answer a request, and deletes it. It returns the length of the
// answer, or a negative number, and why.
int64_t peer_request(peer *p, const uint8_t *request, size_t n, uint8_t *answer, size_t most, char *why, size_t room);
