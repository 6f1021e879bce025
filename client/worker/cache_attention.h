// Who writes keys and values into a KvCache and attends out of it: the host (host_attention.h) or a device
// (cuda/cuda_attention.h). Everything else of a decoder does not know where a cache lies.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/worker/kv_cache.h"

namespace kvsteward::worker {

inline constexpr uint32_t kMaxPassTokens = 128;

// Where the tokens of a pass go: behind the residents of every unit, or over the newest of them.
enum class Place : uint8_t { kBehind, kLast };

// One layer of one pass of neighbouring tokens. Memory is the host's.
struct LayerPass {
  uint32_t layer = 0;
  uint32_t tokens = 0;  // 1 to kMaxPassTokens; 1 if place is kLast
  Place place = Place::kBehind;
  const float* qkv = nullptr;  // [tokens, query_width + 2 * kv_width]: queries and keys after RoPE, and values
  float* attended = nullptr;   // [tokens, query_width]

  // The slot of the pass's first token in a unit that has so many residents.
  uint32_t FirstSlot(uint32_t residents) const { return residents - (place == Place::kLast ? 1 : 0); }
};

class CacheAttention {
 public:
  virtual ~CacheAttention() = default;

  // Puts the pass's keys and values into the layer's units and writes what each token attends to: all residents and the
  // tokens of the pass up to itself. Reads no slot that nobody sees. Nothing of it runs any more when it returns, so
  // that the sequence may be named in a call to the sidecar. An error leaves the pass's slots undefined. REQUIRES: the
  // cache has room for the tokens.
  virtual absl::Status Run(const KvCache& cache, const LayerPass& pass) = 0;
};

// The blocks of a unit's first `tokens` tokens. INTERNAL if its row has fewer.
absl::StatusOr<std::span<const uint32_t>> BlocksOf(const KvCache& cache, uint32_t unit, uint32_t tokens);

}  // namespace kvsteward::worker
