#include "kernels/plan/select.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/plan/allot.h"
#include "kernels/plan/block_shares.h"
#include "kernels/plan/radix.h"
#include "kernels/plan/top_k_random.h"
#include "kernels/plan/two_lists.h"
#include "kernels/plan/two_stage.h"

namespace kvsteward::engine {
namespace {

// What lies in `values`, laid out as the layer's scores, for one head.
std::span<const float> RowOf(const LayerScores& scores, const std::vector<float>& values, size_t head) {
  const int64_t begin = scores.offsets[head];
  return std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(scores.offsets[head + 1] - begin));
}

// Sets the bits of the best `share`. Where the heads' joint selection cut is where most heads' own selections do.
void KeepTopK(std::span<const float> scores, int64_t share, int32_t joint_key, std::span<uint64_t> mask) {
  const KeyCount count = CountKeys(scores, {joint_key, joint_key});
  const int64_t ties = share - count.above;
  KeepAbove(scores, ties >= 0 && ties <= count.within ? Cut{joint_key, ties} : FindCut(scores, share), mask);
}

// The rows that a sum of scores has; 1 if they are no sum over rows.
int32_t RowsSummed(const Policy& policy, int32_t rows) {
  if (!policy.signal.windowed() || policy.accumulate.kind != Accumulate::Kind::kSum) return 1;
  return policy.window == 0 ? rows : std::min(policy.window, rows);
}

}  // namespace

void SelectLayer(const SequenceView& sequence, const Policy& policy, const LayerScores& scores,
                 const ParallelFor& parallel, LayerChoice& choice) {
  const size_t heads = choice.kept.size();
  const auto for_each_head = [&](const auto& body) {
    parallel(static_cast<int64_t>(heads), [&](int64_t head) { body(static_cast<size_t>(head)); });
  };

  std::vector<std::span<const float>> rows;
  std::vector<std::span<const float>> attention;
  for (size_t head = 0; head < heads; ++head) {
    rows.push_back(RowOf(scores, scores.scores, head));
    if (policy.head.kind == HeadBudget::Kind::kCheapest) attention.push_back(RowOf(scores, scores.attention, head));
  }
  std::vector<int64_t> sizes(heads);
  for_each_head([&](size_t head) {
    sizes[head] = static_cast<int64_t>(rows[head].size()) - KeepMarks(rows[head], choice.masks[head]);
  });

  HeadShares allotted;
  if (!choice.shares.empty()) {
    allotted.shares.assign(choice.shares.begin(), choice.shares.end());
  } else {
    const int64_t available = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    const int64_t protected_tokens = scores.offsets.back() - available;
    const int64_t total = std::clamp<int64_t>(choice.total - protected_tokens, 0, available);
    if (policy.select.kind == Select::Kind::kBlock) {
      const std::vector<int64_t> floors = AdaFloors(policy.head.alpha_ppm, sizes, total);
      allotted.shares = BlockShares(rows, sizes, floors, total, parallel);
    } else {
      const LayerCandidates candidates = {rows, sizes, attention, scores.distance};
      allotted = AllotHeads(policy.head, choice.layer, candidates, total, parallel);
    }
  }
  choice.unsplit = allotted.unsplit;

  for_each_head([&](size_t head) {
    const int64_t share = allotted.shares[head];
    const std::span<uint64_t> mask = choice.masks[head];
    choice.kept[head] = static_cast<int32_t>(static_cast<int64_t>(rows[head].size()) - sizes[head] + share);
    switch (policy.select.kind) {
      case Select::Kind::kTopK:
      case Select::Kind::kBlock:
        KeepTopK(rows[head], share, allotted.key, mask);
        break;
      case Select::Kind::kTopKRandom: {
        const size_t unit = static_cast<size_t>(choice.layer) * heads + head;
        const bool one_draw = policy.group.span == Group::Span::kLayer;  // the heads keep the same tokens
        KeepTopKRandom(policy.select, sequence.pool, sequence.units[unit], choice.layer,
                       one_draw ? 0 : static_cast<int32_t>(head), rows[head], share, mask);
        break;
      }
      case Select::Kind::kTwoStage:
        KeepTwoStage(policy.select.fraction_ppm, RowsSummed(policy, sequence.window.rows), rows[head],
                     RowOf(scores, scores.projected, head), share, mask);
        break;
      case Select::Kind::kTwoLists:
        KeepTwoLists(policy.select.share_ppm, rows[head], RowOf(scores, scores.cross, head),
                     RowOf(scores, scores.self, head), share, mask);
        break;
    }
  });
}

}  // namespace kvsteward::engine
