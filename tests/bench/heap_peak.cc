#include "tests/bench/heap_peak.h"

#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): glibc's own names for what is replaced below.
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* at, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* at);
// NOLINTEND(bugprone-reserved-identifier)
}

namespace {

std::atomic<int64_t> in_use{0};
std::atomic<int64_t> most{0};
std::atomic<int64_t> at_reset{0};

void* Count(void* at) {
  if (at == nullptr) return at;
  const int64_t now = in_use += static_cast<int64_t>(malloc_usable_size(at));
  int64_t before = most;
  while (before < now && !most.compare_exchange_weak(before, now)) {
  }
  return at;
}

void Uncount(void* at) {
  if (at != nullptr) in_use -= static_cast<int64_t>(malloc_usable_size(at));
}

}  // namespace

extern "C" {
void* malloc(size_t bytes) { return Count(__libc_malloc(bytes)); }
void* calloc(size_t count, size_t bytes) { return Count(__libc_calloc(count, bytes)); }
void* realloc(void* at, size_t bytes) {
  Uncount(at);
  return Count(__libc_realloc(at, bytes));
}
void* memalign(size_t alignment, size_t bytes) { return Count(__libc_memalign(alignment, bytes)); }
void* aligned_alloc(size_t alignment, size_t bytes) { return Count(__libc_memalign(alignment, bytes)); }
int posix_memalign(void** at, size_t alignment, size_t bytes) {
  *at = Count(__libc_memalign(alignment, bytes));
  return *at == nullptr ? ENOMEM : 0;
}
void free(void* at) {
  Uncount(at);
  __libc_free(at);
}
}

namespace kvsteward::bench {

void ResetHeapPeak() {
  at_reset = in_use.load();
  most = at_reset.load();
}

size_t HeapPeak() { return static_cast<size_t>(most - at_reset); }

}  // namespace kvsteward::bench
