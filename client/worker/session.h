// One prompt that is decoded out of the sidecar's memory: prefill, eviction, answers. Keeps no key and no value of its
// own. Owns its Sequence; borrows client and decoder, which must outlive it. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/worker/decoder.h"
#include "client/worker/kv_cache.h"
#include "client/worker/query_window.h"
#include "kvsteward/client.h"

namespace kvsteward::worker {

inline constexpr uint32_t kWindowRows = 32;  // of the window that scores a cache

// The sidecar's geometry for a model, keys and values in float32.
ModelGeometry GeometryOf(const ModelConfig& config);

// A sequence's rows of blocks, as the sidecar's table shows them.
class SidecarCache : public KvCache {
 public:
  explicit SidecarCache(Sequence sequence) : sequence_(std::move(sequence)) {}

  uint32_t Residents(uint32_t unit) const override { return sequence_.Residents(unit); }
  std::span<const uint32_t> Row(uint32_t unit) const override { return sequence_.Row(unit); }
  float* Block(uint32_t block) const override { return reinterpret_cast<float*>(sequence_.Block(block)); }

  Sequence& sequence() { return sequence_; }

 private:
  Sequence sequence_;
};

class Session {
 public:
  struct Options {
    uint64_t id = 0;
    uint32_t max_tokens = 0;
    uint32_t window_slot = 0;  // no other session may use it
  };
  static absl::StatusOr<std::unique_ptr<Session>> Start(Client& client, Decoder& decoder, const Options& options);

  // Makes room for exactly the prompt and decodes it. REQUIRES: nothing decoded yet, at least kWindowRows tokens.
  absl::Status Prefill(std::span<const uint32_t> prompt);
  // Evicts to a budget that is a part of the tokens seen, in millionths; `policy` and the budget, in tokens, hold from
  // now on. The exported plan is valid until the next call of this session.
  absl::StatusOr<Evicted> Evict(const std::string& policy, uint32_t budget_ppm, bool export_plan);
  // Evicts back to the budget if a unit has a block more than the last eviction left it; tells whether it did.
  absl::StatusOr<bool> EvictIfDue();
  // Decodes the newest token again, over what is resident now, and returns its logits.
  absl::StatusOr<std::span<const float>> DecodeLastAgain();
  // Makes room for the tokens, decodes them and returns the last one's logits, valid until the decoder's next call.
  absl::StatusOr<std::span<const float>> Feed(std::span<const uint32_t> tokens);
  absl::Status Release() { return cache_.sequence().Release(); }

  SidecarCache& cache() { return cache_; }
  // Bytes of the blocks that residents fill.
  uint64_t KvBytes() const;

 private:
  Session(Decoder& decoder, Sequence sequence, QueryWindow window, const Options& options);
  absl::StatusOr<Evicted> Evict(EvictOptions options);

  Decoder& decoder_;
  SidecarCache cache_;
  QueryWindow window_;
  Options options_;
  uint32_t last_token_ = 0;
  std::string policy_;          // of the last eviction
  uint32_t budget_tokens_ = 0;  // 0: never evicted
};

}  // namespace kvsteward::worker
