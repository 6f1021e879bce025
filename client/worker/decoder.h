// A Llama decoder (RMSNorm, RoPE, grouped-query attention, SwiGLU) in float32 that leaves every key and value to a
// KvCache and keeps none of its own. Owns only activations. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "client/worker/cache_attention.h"
#include "client/worker/kv_cache.h"
#include "client/worker/layers.h"
#include "client/worker/model.h"
#include "client/worker/query_window.h"

namespace kvsteward::worker {

class Decoder {
 public:
  static constexpr uint32_t kMaxTokens = kMaxPassTokens;

  // Model and attention must outlive the decoder; the caches that it is given lie where the attention reads them.
  Decoder(const Model& model, CacheAttention& attention);

  // Decodes tokens at positions [position, position + tokens): writes their keys and values behind the residents of
  // every unit, attends to all residents and to them, and returns the last token's logits [vocab], valid until the next
  // call, or the attention's error. `window`, if there is one, gets their queries. REQUIRES: 1 to kMaxTokens tokens
  // below vocab, positions below max_positions, room in the cache for all of them.
  absl::StatusOr<std::span<const float>> Append(const KvCache& cache, std::span<const uint32_t> tokens,
                                                uint32_t position, QueryWindow* window);
  // Decodes the newest resident token again, over what is resident now: its keys, values and query are overwritten.
  // REQUIRES: the token at `position` is the last resident of every unit.
  absl::StatusOr<std::span<const float>> ReplaceLast(const KvCache& cache, uint32_t token, uint32_t position,
                                                     QueryWindow* window);

  const ModelConfig& config() const { return model_.config; }

 private:
  absl::StatusOr<std::span<const float>> Run(const KvCache& cache, std::span<const uint32_t> tokens, uint32_t position,
                                             Place place, QueryWindow* window);
  // Rotates queries and keys, then attends: qkv_ -> attended_.
  absl::Status AttendLayer(const KvCache& cache, uint32_t layer, uint32_t tokens, uint32_t position, Place place,
                           QueryWindow* window);

  const Model& model_;
  CacheAttention& attention_;
  Rope rope_;
  // Activations, [kMaxTokens, width] each.
  std::vector<float> hidden_;
  std::vector<float> normed_;
  std::vector<float> qkv_;
  std::vector<float> attended_;
  std::vector<float> gate_up_;
  std::vector<float> gated_;
  std::vector<float> logits_;
};

}  // namespace kvsteward::worker
