#include "client/worker/host_attention.h"

#include <algorithm>
#include <cstddef>

#include "client/worker/layers.h"

namespace kvsteward::worker {

absl::Status HostAttention::Run(const KvCache& cache, const LayerPass& pass) {
  for (uint32_t head = 0; head < config_.kv_heads; ++head) {
    if (absl::Status status = RunUnit(cache, pass, head); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status HostAttention::RunUnit(const KvCache& cache, const LayerPass& pass, uint32_t head) {
  const uint32_t unit = pass.layer * config_.kv_heads + head;
  const size_t head_dim = config_.head_dim;
  const size_t stride = config_.query_width() + 2 * config_.kv_width();
  const uint32_t first = pass.FirstSlot(cache.Residents(unit));
  const absl::StatusOr<std::span<const uint32_t>> row = BlocksOf(cache, unit, first + pass.tokens);
  if (!row.ok()) return row.status();

  const float* keys = pass.qkv + config_.query_width() + head * head_dim;
  const float* values = keys + config_.kv_width();
  for (uint32_t t = 0; t < pass.tokens; ++t) {
    float* block = cache.Block((*row)[(first + t) / kBlockTokens]);
    const size_t slot = (first + t) % kBlockTokens;
    std::copy_n(keys + t * stride, head_dim, block + slot * head_dim);
    std::copy_n(values + t * stride, head_dim, block + (kBlockTokens + slot) * head_dim);
  }

  blocks_.clear();
  for (const uint32_t block : *row) blocks_.push_back(cache.Block(block));
  const size_t queries = head_dim * head * config_.group();
  Attend({.blocks = blocks_,
          .visible = first + 1,
          .tokens = pass.tokens,
          .group = config_.group(),
          .head_dim = config_.head_dim,
          .queries = pass.qkv + queries,
          .query_stride = static_cast<uint32_t>(stride),
          .out = pass.attended + queries,
          .out_stride = config_.query_width()},
         scratch_);
  return absl::OkStatus();
}

}  // namespace kvsteward::worker
