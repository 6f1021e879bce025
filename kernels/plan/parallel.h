// How the shared stages are handed threads. Their results do not depend on it.
#pragma once

#include <cstdint>
#include <functional>

namespace kvsteward::engine {

// Calls body(i) once for every i in [0, count), in any order, on any threads, and returns when all have returned. A
// body does not call it again.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& body)>;

// On the caller's thread.
inline void Serially(int64_t count, const std::function<void(int64_t)>& body) {
  for (int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace kvsteward::engine
