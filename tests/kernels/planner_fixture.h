// A planner's surroundings without an engine behind them: one that scores by a function and logs its calls, a sequence
// of 60 tokens, small policies.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <string>
#include <vector>

#include "kernels/plan/planner.h"
#include "kernels/plan/protect.h"

namespace kvsteward::engine {

using Strings = std::vector<std::string>;

// Scores its candidates by `score`, pins by those scores, keeps the first candidates of each head, and logs the calls.
class FakeEngine final : public LayerEngine {
 public:
  std::string_view name() const override { return "fake"; }

  absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    log.push_back("score " + std::to_string(layer));
    if (layer == bad_layer) return error;
    const std::span<const UnitView> units = UnitsOf(sequence, layer);
    std::vector<CandidateSet> sets;
    int64_t protected_tokens = 0;
    for (const UnitView& unit : units) {
      sets.push_back(Candidates(unit, sequence.pool, sequence.inputs.classes, policy.protect, k));
      protected_tokens += unit.length - sets.back().size();
    }
    *out = {};
    out->offsets.push_back(0);
    for (size_t h = 0; h < units.size(); ++h) {
      std::vector<float> scores;
      for (int32_t j = 0; j < units[h].length; ++j) scores.push_back(score(layer, static_cast<int32_t>(h), j));
      const int64_t most = UniformShare(k, sequence.geometry.kv_heads, protected_tokens);
      if (policy.protect.mass_ppm > 0) PinByMass(scores, policy.protect.mass_ppm, most, &sets[h]);
      if (policy.running()) out->running.insert(out->running.end(), scores.begin(), scores.end());
      for (int32_t j = 0; j < units[h].length; ++j) {
        const bool hole = std::binary_search(sets[h].holes.begin(), sets[h].holes.end(), j);
        if (j < sets[h].begin || j >= sets[h].end || hole) scores[static_cast<size_t>(j)] = kProtected;
      }
      out->scores.insert(out->scores.end(), scores.begin(), scores.end());
      out->offsets.push_back(static_cast<int64_t>(out->scores.size()));
    }
    if (after_score) after_score();
    return absl::OkStatus();
  }

  absl::Status AccumulateLayer(const SequenceView& sequence, const Policy&, int64_t k, int32_t layer,
                               std::vector<float>* running) override {
    log.push_back("accumulate " + std::to_string(layer) + " k " + std::to_string(k));
    if (layer == bad_layer) return error;
    for (const UnitView& unit : UnitsOf(sequence, layer)) {
      running->insert(running->end(), static_cast<size_t>(unit.length), static_cast<float>(layer));
    }
    return absl::OkStatus();
  }

  void StoreRunning(const SequenceView&, int32_t layer, std::span<const float> running) override {
    log.push_back("store " + std::to_string(layer));
    stored.emplace_back(running.begin(), running.end());
  }

  void SelectLayer(const SequenceView& sequence, const Policy&, const LayerScores& scores,
                   LayerChoice& choice) override {
    log.push_back("select " + std::to_string(choice.layer) + " of " + std::to_string(choice.total));
    const std::span<const UnitView> units = UnitsOf(sequence, choice.layer);
    int64_t left = choice.total - wasted;
    for (const float score_of : scores.scores) left -= score_of < 0 ? 1 : 0;
    EXPECT_GE(left, 0);
    for (size_t h = 0; h < units.size(); ++h) {
      int64_t share = choice.shares.empty() ? left : choice.shares[h];
      for (int32_t j = 0; j < units[h].length; ++j) {
        const bool is_protected = scores.scores[static_cast<size_t>(scores.offsets[h] + j)] < 0;
        if (!is_protected && share == 0) continue;
        share -= is_protected ? 0 : 1;
        left -= is_protected ? 0 : 1;
        choice.masks[h][static_cast<size_t>(j / 64)] |= uint64_t{1} << (j % 64);
      }
      choice.kept[h] = 0;
      for (const uint64_t word : choice.masks[h]) choice.kept[h] += std::popcount(word);
    }
    EXPECT_EQ(left, 0);
    choice.unsplit = choice.layer == unsplit_layer;
  }

  absl::StatusOr<Publishing> CompactUnits(const SequenceView&, const Plan&, std::span<const UnitMove>,
                                          const TableView&) override {
    log.push_back("compact");
    return Publishing::kByCaller;
  }

  std::function<float(int32_t layer, int32_t head, int32_t j)> score = [](int32_t, int32_t, int32_t) { return 1.0f; };
  std::function<void()> after_score;
  absl::Status error = absl::InvalidArgumentError("layer is bad");
  int32_t bad_layer = -1;
  int32_t unsplit_layer = -1;
  int64_t wasted = 0;  // tokens that a layer keeps fewer than its budget
  Strings log;
  std::vector<std::vector<float>> stored;

 private:
  static std::span<const UnitView> UnitsOf(const SequenceView& sequence, int32_t layer) {
    const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
    return sequence.units.subspan(static_cast<size_t>(layer) * heads, heads);
  }
};

// A sequence that was never evicted, 60 tokens long, but for units that hold only its last ones; two query heads per kv
// head, head_dim 2, a window of the last 4 rows.
class Sequence {
 public:
  explicit Sequence(const std::vector<int32_t>& lengths, int32_t layers = 1) {
    view_.geometry = {.layers = layers,
                      .query_heads = 2 * static_cast<int32_t>(lengths.size()) / layers,
                      .kv_heads = static_cast<int32_t>(lengths.size()) / layers,
                      .head_dim = 2,
                      .dtype = DType::kF32};
    view_.seen = kSeen;
    for (const int32_t length : lengths) {
      units_.push_back({.row = {}, .length = length, .stored = 0, .appended_position = kSeen - length});
    }
    view_.pool.positions = positions_.data();
    view_.window = {.queries = queries_, .dtype = DType::kF32, .rows = 4, .positions = row_positions_};
  }

  SequenceView View() {
    view_.units = units_;
    return view_;
  }
  // Has a unit hold these positions, in a block of its own.
  void Store(size_t u, const std::vector<int32_t>& positions) {
    runs_[u] = {static_cast<uint32_t>(u), 1};
    std::copy(positions.begin(), positions.end(), positions_.begin() + static_cast<std::ptrdiff_t>(u) * kBlockTokens);
    units_[u].row = std::span(&runs_[u], 1);
    units_[u].length = units_[u].stored = static_cast<int32_t>(positions.size());
  }
  UnitView& unit(size_t u) { return units_[u]; }

  static constexpr int32_t kSeen = 60;

 private:
  static constexpr std::byte queries_[1] = {};
  std::vector<int32_t> row_positions_ = {56, 57, 58, 59};
  std::vector<int32_t> positions_ = std::vector<int32_t>(8 * kBlockTokens, -1);
  Run runs_[8];
  std::vector<UnitView> units_;
  SequenceView view_;
};

inline constexpr Budget kTen = {Budget::Kind::kTokens, 10};

inline Policy SmallPolicy() {
  Policy policy;
  policy.name = "small";
  policy.protect.sinks = 1;
  policy.protect.recent = 2;
  return policy;
}

inline Policy RunningPolicy() {
  Policy policy = SmallPolicy();
  policy.window = 0;
  policy.accumulate.kind = Accumulate::Kind::kRunning;
  return policy;
}

inline Policy PolicyWithLayers(LayerBudget::Kind kind) {
  Policy policy = SmallPolicy();
  policy.layer.kind = kind;
  if (kind == LayerBudget::Kind::kGlobal) policy.head.kind = HeadBudget::Kind::kAdaFloor;
  return policy;
}

// Steps to the end. REQUIRES: no step is refused.
inline Plan Finish(EvictionPlanner& planner) {
  while (!planner.finished()) {
    const absl::Status status = planner.Step();
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) break;
  }
  return planner.TakePlan();
}

}  // namespace kvsteward::engine
