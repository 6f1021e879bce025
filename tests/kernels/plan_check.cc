#include "tests/kernels/plan_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/cpu/host_engine.h"
#include "tests/kernels/mirror.h"

namespace kvsteward::engine {
namespace {

using ::testing::HasSubstr;

// The numbers of one unit in an array laid out as a layer's scores; empty if the array is.
reference::Row OfUnit(const std::vector<float>& layer, const std::vector<int64_t>& offsets, size_t head) {
  if (layer.empty()) return {};
  return reference::Row(layer.begin() + offsets[head], layer.begin() + offsets[head + 1]);
}

double Mean(const reference::Row& row) {
  return row.empty() ? 0 : std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(row.size());
}

// The bits of every unit's mask against expected ones, and `kept` and `layer_budgets` against the bits.
void ExpectMasks(const Plan& plan, const std::vector<std::vector<bool>>& expected, int32_t kv_heads) {
  ASSERT_EQ(plan.kept.size(), expected.size());
  std::vector<int64_t> layer_budgets(expected.size() / kv_heads, 0);
  for (size_t u = 0; u < expected.size(); ++u) {
    ASSERT_EQ(plan.UnitMask(static_cast<int32_t>(u)).size(), (expected[u].size() + 63) / 64);
    int64_t bits = 0;
    for (const uint64_t word : plan.UnitMask(static_cast<int32_t>(u))) bits += std::popcount(word);
    for (size_t j = 0; j < expected[u].size(); ++j) {
      ASSERT_EQ(Keeps(plan, u, j), expected[u][j]) << "unit " << u << " token " << j;
    }
    ASSERT_EQ(bits, std::count(expected[u].begin(), expected[u].end(), true));  // none beyond the length
    ASSERT_EQ(plan.kept[u], bits);
    layer_budgets[u / kv_heads] += bits;
  }
  ASSERT_EQ(plan.layer_budgets, layer_budgets);
}

void ExpectClose(const char* what, const reference::Row& emitted, const reference::Row& exact, double typical,
                 const reference::UnitScores& unit) {
  ASSERT_EQ(emitted.size(), exact.size()) << what;
  for (size_t j = 0; j < emitted.size(); ++j) {
    if (exact[j] == reference::kProtected) {
      ASSERT_EQ(emitted[j], double{kProtected}) << what << " token " << j;
      continue;
    }
    ASSERT_GE(emitted[j], 0.0) << what << " token " << j;
    ASSERT_NEAR(emitted[j], exact[j], unit.Epsilon(exact[j], typical)) << what << " token " << j;
  }
}

// What a unit's scores are made of is what the policy has, and within epsilon.
void ExpectUnitIsRight(const reference::Emitted& emitted, const reference::Row& running,
                       const reference::UnitScores& exact) {
  ASSERT_LE(exact.greatest, double{FLT_MAX});
  ASSERT_NO_FATAL_FAILURE(ExpectClose("scores", emitted.scores, exact.scores, exact.mean, exact));
  ASSERT_NO_FATAL_FAILURE(ExpectClose("attention", emitted.attention, exact.attention, Mean(exact.attention), exact));
  ASSERT_NO_FATAL_FAILURE(ExpectClose("cross", emitted.cross, exact.cross, exact.mean, exact));
  ASSERT_NO_FATAL_FAILURE(ExpectClose("self", emitted.self, exact.self, exact.mean, exact));
  ASSERT_NO_FATAL_FAILURE(ExpectClose("running", running, exact.running, Mean(exact.running), exact));
  for (size_t j = 0; j < emitted.cross.size(); ++j) {
    if (emitted.scores[j] == double{kProtected}) continue;
    const auto both = static_cast<float>(emitted.cross[j] + emitted.self[j]);
    ASSERT_EQ(emitted.scores[j], emitted.scores[j] == 0 && both < 0x1p-100f ? 0.0f : both) << "token " << j;
  }
}

// Float64 of emitted numbers: the same up to the order of sums.
void ExpectDistances(const reference::Sequence& contents, int32_t layer, const std::vector<reference::Row>& attention,
                     const std::vector<double>& distance) {
  double loudest = 0;
  for (const reference::Unit& unit : contents.units) {
    for (const double v : unit.values) loudest = std::max(loudest, std::abs(v));
  }
  const reference::Row exact = reference::Distances(contents, layer, attention);
  ASSERT_EQ(distance.size(), exact.size());
  for (size_t h = 0; h < exact.size(); ++h) ASSERT_NEAR(distance[h], exact[h], 1e-9 * (exact[h] + loudest));
}

// One layer's scores, checked, as the reference's later stages take them: added to *units.
void ExpectLayerIsRight(const reference::Sequence& contents, const Policy& policy, int64_t k, int32_t layer,
                        const LayerScores& scores, std::vector<reference::Emitted>* units) {
  const auto heads = static_cast<size_t>(contents.kv_heads);
  const size_t first = static_cast<size_t>(layer) * heads;
  ASSERT_EQ(scores.offsets.size(), heads + 1);
  ASSERT_EQ(scores.offsets[0], 0);
  for (size_t h = 0; h < heads; ++h) {
    const auto length = static_cast<int64_t>(contents.units[first + h].positions.size());
    ASSERT_EQ(scores.offsets[h + 1] - scores.offsets[h], length);
  }
  for (const auto* array : {&scores.attention, &scores.cross, &scores.self, &scores.projected, &scores.running}) {
    if (!array->empty()) {
      ASSERT_EQ(array->size(), scores.scores.size());
    }
  }
  std::vector<reference::Row> attention;
  for (size_t h = 0; h < heads; ++h) attention.push_back(OfUnit(scores.attention, scores.offsets, h));
  if (policy.reads_attention()) {
    ASSERT_EQ(scores.attention.size(), scores.scores.size());
  }
  const std::vector<reference::UnitScores> exact =
      reference::ScoreLayer(contents, MirrorOf(policy), k, layer, policy.reads_attention() ? &attention : nullptr);
  for (size_t h = 0; h < heads; ++h) {
    SCOPED_TRACE("layer " + std::to_string(layer) + " kv head " + std::to_string(h));
    reference::Emitted unit = {.positions = contents.units[first + h].positions,
                               .scores = OfUnit(scores.scores, scores.offsets, h),
                               .attention = attention[h],
                               .cross = OfUnit(scores.cross, scores.offsets, h),
                               .self = OfUnit(scores.self, scores.offsets, h),
                               .projected = OfUnit(scores.projected, scores.offsets, h)};
    ASSERT_NO_FATAL_FAILURE(ExpectUnitIsRight(unit, OfUnit(scores.running, scores.offsets, h), exact[h]));
    ASSERT_EQ(unit.projected,
              policy.reads_projected_norms() ? contents.inputs.projected_norms[first + h] : reference::Row());
    units->push_back(std::move(unit));
  }
  if (policy.head.kind == HeadBudget::Kind::kSplit) {
    ASSERT_NO_FATAL_FAILURE(ExpectDistances(contents, layer, attention, scores.distance));
    for (size_t h = 0; h < heads; ++h) (*units)[first + h].distance = scores.distance[h];
  } else {
    ASSERT_TRUE(scores.distance.empty());
  }
}

}  // namespace

bool Keeps(const Plan& plan, size_t u, size_t j) {
  return (plan.UnitMask(static_cast<int32_t>(u))[j / 64] >> (j % 64) & 1) != 0;
}

int64_t ProtectedTokens(const PlainSequence& plain, const Policy& policy, int64_t k) {
  int64_t count = 0;
  for (const reference::Unit& unit : plain.contents.units) {
    const std::vector<bool> candidate = reference::Candidates(unit, plain.contents.inputs.classes, MirrorOf(policy), k);
    count += std::count(candidate.begin(), candidate.end(), false);
  }
  return count;
}

int64_t Residents(const PlainSequence& plain) {
  size_t residents = 0;
  for (const reference::Unit& unit : plain.contents.units) residents += unit.positions.size();
  return static_cast<int64_t>(residents);
}

void ExpectPlanIsRight(PagedSequence& sequence, const Policy& policy, const Plan& plan) {
  const PlainSequence& plain = sequence.plain();
  const reference::Sequence& contents = plain.contents;
  const int64_t k = plan.budget_tokens;
  const int64_t budget = k * contents.layers * contents.kv_heads;
  const int64_t residents = Residents(plain);
  const int64_t kept = std::accumulate(plan.kept.begin(), plan.kept.end(), int64_t{0});
  const bool blocks = policy.select.kind == Select::Kind::kBlock;

  ASSERT_EQ(plan.no_op, residents <= budget);
  ASSERT_LE(kept, std::min(residents, budget));
  ASSERT_GE(kept, std::min(residents, budget) - (blocks && !plan.no_op ? 15 * contents.layers : 0));
  if (plan.no_op) {
    std::vector<std::vector<bool>> all;
    for (const reference::Unit& unit : contents.units) all.emplace_back(unit.positions.size(), true);
    EXPECT_TRUE(plan.scores.empty());
    EXPECT_EQ(plan.unsplit_layers, 0);
    return ExpectMasks(plan, all, contents.kv_heads);
  }

  std::vector<reference::Emitted> emitted;
  ASSERT_EQ(plan.scores.size(), static_cast<size_t>(contents.layers));
  for (int32_t layer = 0; layer < contents.layers; ++layer) {
    const LayerScores& scores = plan.scores[static_cast<size_t>(layer)];
    ASSERT_NO_FATAL_FAILURE(ExpectLayerIsRight(contents, policy, k, layer, scores, &emitted));
  }
  const reference::Policy mirror = MirrorOf(policy);
  const auto rows = static_cast<int>(reference::RowsUsed(contents, mirror).size());
  const reference::Decision decision = reference::Decide(mirror, contents.layers, contents.kv_heads, k, rows, emitted);
  ASSERT_NO_FATAL_FAILURE(ExpectMasks(plan, decision.keep, contents.kv_heads));
  ASSERT_EQ(plan.unsplit_layers, decision.unsplit_layers);
  if (policy.reads_norms()) ExpectNorms(sequence, policy);
}

void ExpectRefusalIsRight(PagedSequence& sequence, const Policy& policy, int64_t k, const absl::Status& status) {
  const reference::Sequence& contents = sequence.plain().contents;
  const int64_t budget = k * contents.layers * contents.kv_heads;
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  ASSERT_GT(Residents(sequence.plain()), budget) << status;
  const std::string message(status.message());
  if (ProtectedTokens(sequence.plain(), policy, k) > budget) {
    ASSERT_THAT(message, HasSubstr("protects"));
    return;
  }
  if (message.find("scores: layer ") != std::string::npos) {
    double greatest = 0;
    for (int32_t layer = 0; layer < contents.layers; ++layer) {
      for (const reference::UnitScores& unit : reference::ScoreLayer(contents, MirrorOf(policy), k, layer)) {
        greatest = std::max(greatest, unit.greatest);
      }
    }
    ASSERT_GT(greatest, double{FLT_MAX}) << status;
    return;
  }
  ASSERT_GT(policy.protect.mass_ppm, 0) << "refused for no reason: " << status;
  ASSERT_THAT(message, HasSubstr("protects"));
  std::vector<reference::Emitted> emitted;
  int64_t protected_tokens = 0;
  const std::unique_ptr<LayerEngine> engine = NewHostLayerEngine(1);  // pins are made on the host everywhere
  for (int32_t layer = 0; layer < contents.layers; ++layer) {
    LayerScores scores;
    ASSERT_TRUE(engine->ScoreLayer(sequence.View(), policy, k, layer, &scores).ok());
    ASSERT_NO_FATAL_FAILURE(ExpectLayerIsRight(contents, policy, k, layer, scores, &emitted));
    protected_tokens += std::count(scores.scores.begin(), scores.scores.end(), kProtected);
  }
  ASSERT_GT(protected_tokens, budget) << "refused for no reason: " << status;
}

void ExpectRunningIsRight(PagedSequence& sequence, const Policy& policy, int64_t k, int32_t layer,
                          std::span<const float> running) {
  size_t offset = 0;
  for (const reference::UnitScores& unit :
       reference::ScoreLayer(sequence.plain().contents, MirrorOf(policy), k, layer)) {
    ASSERT_LE(offset + unit.running.size(), running.size());
    const auto begin = running.begin() + static_cast<std::ptrdiff_t>(offset);
    const reference::Row emitted(begin, begin + static_cast<std::ptrdiff_t>(unit.running.size()));
    ASSERT_NO_FATAL_FAILURE(ExpectClose("running", emitted, unit.running, Mean(unit.running), unit));
    offset += unit.running.size();
  }
  ASSERT_EQ(offset, running.size());
}

void ExpectNorms(PagedSequence& sequence, const Policy& policy) {
  const reference::Sequence& plain = sequence.plain().contents;
  for (size_t u = 0; u < plain.units.size(); ++u) {
    for (int32_t j = 0; j < sequence.unit(u).length; ++j) {
      double norm = 0;
      for (int x = 0; x < plain.head_dim; ++x) {
        const double v = plain.units[u].values[j * plain.head_dim + x];
        norm += policy.norm() == Norm::kL1 ? std::abs(v) : v * v;
      }
      ASSERT_NEAR(sequence.pool().norms[sequence.SlotOf(u, j)], norm, 1e-5 * norm + FLT_MIN)
          << "unit " << u << " token " << j;
    }
  }
}

void ExpectSamePlan(const Plan& a, const Plan& b) {
  ASSERT_EQ(a.no_op, b.no_op);
  ASSERT_EQ(a.budget_tokens, b.budget_tokens);
  ASSERT_EQ(a.kept, b.kept);
  ASSERT_EQ(a.layer_budgets, b.layer_budgets);
  ASSERT_EQ(a.mask, b.mask);
  ASSERT_EQ(a.mask_offsets, b.mask_offsets);
  ASSERT_EQ(a.unsplit_layers, b.unsplit_layers);
  ASSERT_EQ(a.scores.size(), b.scores.size());
  for (size_t layer = 0; layer < a.scores.size(); ++layer) {
    ASSERT_EQ(a.scores[layer].scores, b.scores[layer].scores) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].offsets, b.scores[layer].offsets) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].attention, b.scores[layer].attention) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].cross, b.scores[layer].cross) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].self, b.scores[layer].self) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].projected, b.scores[layer].projected) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].running, b.scores[layer].running) << "layer " << layer;
    ASSERT_EQ(a.scores[layer].distance, b.scores[layer].distance) << "layer " << layer;
  }
}

}  // namespace kvsteward::engine
