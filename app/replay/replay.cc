#include "app/replay/replay.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/plan.h"

namespace kvsteward::replay {
namespace {

using engine::kBlockTokens;

// The input in blocks, as an engine reads it: a unit's blocks are one run. K and V that the policy does not read are
// left out.
class PagedInput {
 public:
  PagedInput(const ReplayInput& input, const engine::Policy& policy) : input_(input), rows_(input.units()) {
    uint32_t blocks = 0;
    for (size_t u = 0; u < input.units(); ++u) {
      rows_[u] = {blocks, BlocksFor(static_cast<uint64_t>(input.lengths[u]))};
      blocks += rows_[u].count;
    }
    const bool reads_tensors = policy.reads_keys() || policy.reads_values();
    data_.resize(reads_tensors ? blocks * input.geometry.block_bytes() : 0);
    positions_.resize(size_t{blocks} * kBlockTokens);
    norms_.resize(policy.reads_norms() ? size_t{blocks} * kBlockTokens : 0);
    pool_ = {data_.data(), input.geometry.block_bytes(), positions_.data(), norms_.data(), /*running=*/nullptr};
    for (size_t u = 0; u < input.units(); ++u) {
      std::ranges::copy(input.UnitPositions(u), positions_.begin() + int64_t{rows_[u].first} * kBlockTokens);
      if (policy.reads_keys()) CopyUnit(u, input.keys, 0);
      if (policy.reads_values()) CopyUnit(u, input.values, pool_.block_bytes / 2);
      units_.push_back({.row = {&rows_[u], 1},
                        .length = input.lengths[u],
                        .stored = input.lengths[u],
                        .appended_position = 0,
                        .normed = 0,
                        .scored = 0});
    }
  }

  // Valid as long as this and the input.
  engine::SequenceView View() const {
    return {.geometry = input_.geometry,
            .pool = pool_,
            .units = units_,
            .window = {.queries = input_.queries.data(),
                       .dtype = input_.query_dtype,
                       .rows = input_.rows,
                       .positions = input_.query_positions},
            .inputs = {.classes = input_.classes,
                       .scores = input_.scores,
                       .projected_norms = input_.projected_norms,
                       .query_mean = input_.query_mean,
                       .query_covariance = input_.query_covariance},
            .seen = input_.seen};
  }

 private:
  // Copies one unit's tokens of `tensor` into its blocks, `offset` bytes into each.
  void CopyUnit(size_t unit, std::span<const std::byte> tensor, size_t offset) {
    const size_t token_bytes = input_.geometry.token_bytes();
    const std::byte* from = tensor.data() + unit * static_cast<size_t>(input_.tokens) * token_bytes;
    for (int32_t done = 0; done < input_.lengths[unit]; done += kBlockTokens) {
      const size_t bytes = token_bytes * static_cast<size_t>(std::min(kBlockTokens, input_.lengths[unit] - done));
      const uint32_t block = rows_[unit].first + static_cast<uint32_t>(done / kBlockTokens);
      std::memcpy(pool_.keys(block) + offset, from + static_cast<size_t>(done) * token_bytes, bytes);
    }
  }

  const ReplayInput& input_;
  std::vector<Run> rows_;  // [units]
  std::vector<std::byte> data_;
  std::vector<int32_t> positions_;
  std::vector<float> norms_;
  engine::PoolView pool_;
  std::vector<engine::UnitView> units_;
};

ReplayOutput ToOutput(const ReplayInput& input, const engine::Plan& plan, std::string backend) {
  ReplayOutput output;
  output.backend = std::move(backend);
  const auto tokens = static_cast<size_t>(input.tokens);
  const auto kv_heads = static_cast<size_t>(input.geometry.kv_heads);
  output.keep.assign(input.units() * tokens, 0);
  output.scores.assign(input.units() * tokens, 0.0f);
  output.head_budgets = plan.kept;
  output.layer_budgets.assign(plan.layer_budgets.begin(), plan.layer_budgets.end());
  output.unsplit_layers = plan.unsplit_layers;
  for (size_t u = 0; u < input.units(); ++u) {
    const std::span<const uint64_t> mask = plan.UnitMask(static_cast<int32_t>(u));
    for (size_t j = 0; j < static_cast<size_t>(input.lengths[u]); ++j) {
      output.keep[u * tokens + j] = static_cast<uint8_t>(mask[j / 64] >> (j % 64) & 1);
      if (plan.no_op) continue;
      const engine::LayerScores& layer = plan.scores[u / kv_heads];
      const float score = layer.scores[static_cast<size_t>(layer.offsets[u % kv_heads]) + j];
      output.scores[u * tokens + j] = std::max(score, 0.0f);  // kProtected is negative
    }
  }
  return output;
}

}  // namespace

absl::StatusOr<ReplayOutput> ReplayInProcess(const ReplayInput& input, const engine::Policy& policy,
                                             const engine::Budget& budget, int threads) {
  if (absl::Status status = CheckTensors(input, policy); !status.ok()) return status;
  const PagedInput paged(input, policy);
  const std::unique_ptr<engine::Engine> engine = engine::NewHostEngine(threads);
  const engine::SequenceView sequence = paged.View();
  absl::StatusOr<std::unique_ptr<engine::Eviction>> eviction =
      engine->StartEviction(sequence, policy, budget, {.masks = true, .scores = true});
  if (!eviction.ok()) return eviction.status();
  while (!(*eviction)->finished()) {
    if (absl::Status status = (*eviction)->Step(); !status.ok()) return status;
  }
  return ToOutput(input, (*eviction)->TakePlan(), std::string(engine->name()));
}

}  // namespace kvsteward::replay
