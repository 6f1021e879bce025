// Stages 7 and 8 of a layer against the reference's sorts: any scores, any budgets, any ties, every method.
#include "kernels/plan/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "tests/kernels/mirror.h"
#include "tests/kernels/random_scores.h"
#include "tests/reference/budgets.h"
#include "tests/reference/select.h"

namespace kvsteward::engine {
namespace {

using Masks = std::vector<std::vector<bool>>;

// One layer of a sequence behind others, its scores, and what the reference reads.
struct LayerCase {
  int32_t layer = 0;
  int32_t heads = 0;
  int32_t rows = 0;
  Policy policy;
  LayerScores scores;
  std::vector<reference::Emitted> emitted;  // [heads]
  int64_t candidates = 0;
  int64_t total = 0;  // of candidates
  std::vector<int32_t> positions;
  std::vector<Run> row;
  std::vector<UnitView> units;

  SequenceView View() {
    SequenceView view;
    view.geometry = {.layers = layer + 1, .query_heads = heads, .kv_heads = heads, .head_dim = 8};
    view.pool.positions = positions.data();
    view.units = units;
    view.window.rows = rows;
    return view;
  }
};

int32_t Below(std::mt19937& random, int32_t end) { return static_cast<int32_t>(random() % static_cast<uint32_t>(end)); }

int64_t DrawPpm(std::mt19937& random) {
  const int32_t kind = Below(random, 6);
  return kind == 0 ? 0 : kind == 1 ? kPpm : Below(random, kPpm + 1);
}

Policy DrawPolicy(std::mt19937& random, int32_t layers, int32_t heads) {
  Policy policy;
  policy.window = Below(random, 4);
  policy.accumulate.kind = Below(random, 2) == 0 ? Accumulate::Kind::kSum : Accumulate::Kind::kMean;
  policy.head.kind = static_cast<HeadBudget::Kind>(Below(random, 6));
  policy.head.alpha_ppm = DrawPpm(random);
  policy.head.mass_ppm = DrawPpm(random);
  policy.head.full_heads = 1 + Below(random, heads + 1);
  for (int32_t l = 0; l < layers; ++l) {
    policy.head.table_ppm.emplace_back();
    const bool zeros = Below(random, 8) == 0;
    for (int32_t h = 0; h < heads; ++h) policy.head.table_ppm.back().push_back(zeros ? 0 : DrawPpm(random));
  }
  policy.select.kind = static_cast<Select::Kind>(Below(random, 5));
  if (policy.select.kind == Select::Kind::kBlock) policy.head.kind = HeadBudget::Kind::kAdaFloor;
  policy.select.fraction_ppm = DrawPpm(random);
  policy.select.share_ppm = DrawPpm(random);
  policy.select.seed = static_cast<uint32_t>(random());
  if (Below(random, 4) == 0) policy.group.span = Group::Span::kLayer;
  return policy;
}

LayerCase DrawCase(uint32_t seed) {
  std::mt19937 random(seed);
  LayerCase c;
  c.layer = Below(random, 3);
  c.heads = 1 + Below(random, 8);
  c.rows = 1 + Below(random, 5);
  c.policy = DrawPolicy(random, c.layer + 1, c.heads);
  const int32_t longest = Below(random, 40) == 0 ? 4000 : 200;

  // Blocks in descending order; the last tokens were appended since their positions were stored.
  const auto blocks = static_cast<uint32_t>(longest) / kBlockTokens + 1;
  for (uint32_t b = blocks; b-- > 0;) c.row.push_back({b, 1});
  c.positions.resize(size_t{blocks} * kBlockTokens);
  const auto slot = [&](int32_t j) -> size_t {
    return size_t{c.row[static_cast<size_t>(j / kBlockTokens)].first} * kBlockTokens + j % kBlockTokens;
  };
  int32_t position = 0;
  for (int32_t j = 0; j < longest; ++j) c.positions[slot(j)] = position += 1 + Below(random, 3);

  c.units.resize(static_cast<size_t>(c.layer) * c.heads);
  c.scores.offsets = {0};
  const auto kind = static_cast<uint32_t>(random());
  for (int32_t h = 0; h < c.heads; ++h) {
    const int32_t n = Below(random, longest + 1);
    const int32_t stored = Below(random, n + 1);
    c.units.push_back(
        {.row = c.row, .length = n, .stored = stored, .appended_position = position + 5, .normed = 0, .scored = 0});
    reference::Emitted& emitted = c.emitted.emplace_back();
    for (const float score : DrawRow(random, static_cast<size_t>(n), kind)) {
      const auto j = static_cast<int32_t>(emitted.scores.size());
      const auto number = [&](std::vector<float>& to, reference::Row& twin) {
        to.push_back(Below(random, 4) == 0 ? 0 : std::min(DrawScore(random, kind / kScoreKinds), 1e30f));
        twin.push_back(to.back());
      };
      c.scores.scores.push_back(score);
      emitted.scores.push_back(score);
      number(c.scores.attention, emitted.attention);
      number(c.scores.cross, emitted.cross);
      number(c.scores.self, emitted.self);
      number(c.scores.projected, emitted.projected);
      emitted.positions.push_back(j < stored ? c.positions[slot(j)] : position + 5 + (j - stored));
      c.candidates += score >= 0 ? 1 : 0;
    }
    c.scores.distance.push_back(Below(random, 3));
    emitted.distance = c.scores.distance.back();
    c.scores.offsets.push_back(c.scores.offsets.back() + n);
  }
  const int32_t end = Below(random, 6);
  c.total = end == 0 ? 0 : end == 1 ? c.candidates : Below(random, static_cast<int32_t>(c.candidates) + 1);
  return c;
}

struct Outcome {
  Masks keep;
  std::vector<int32_t> kept;
  bool unsplit = false;
  bool operator==(const Outcome&) const = default;
};

Outcome Select(LayerCase& c, int64_t layer_total, std::span<const int64_t> shares, const ParallelFor& parallel) {
  Outcome outcome;
  outcome.kept.resize(static_cast<size_t>(c.heads));
  std::vector<std::vector<uint64_t>> words;
  for (const auto& unit : c.emitted) words.emplace_back((unit.scores.size() + 63) / 64);
  const std::vector<std::span<uint64_t>> masks(words.begin(), words.end());
  LayerChoice choice{.layer = c.layer, .total = layer_total, .shares = shares, .kept = outcome.kept, .masks = masks};
  SelectLayer(c.View(), c.policy, c.scores, parallel, choice);
  outcome.unsplit = choice.unsplit;
  for (size_t h = 0; h < words.size(); ++h) {
    outcome.keep.emplace_back();
    for (size_t j = 0; j < words[h].size() * 64; ++j) {
      const bool keep = (words[h][j / 64] >> (j % 64) & 1) != 0;
      if (j < c.emitted[h].scores.size()) {
        outcome.keep.back().push_back(keep);
      } else {
        EXPECT_FALSE(keep) << "a bit of no token";
      }
    }
  }
  return outcome;
}

Outcome Reference(const LayerCase& c, const std::vector<int64_t>* shares) {
  const reference::Policy policy = MirrorOf(c.policy);
  const int rows = c.policy.window == 0 ? c.rows : std::min(c.policy.window, c.rows);
  Outcome outcome;
  if (c.policy.select.kind == Select::Kind::kBlock && shares == nullptr) {
    outcome.keep = reference::SelectByBlocks(policy, c.emitted, c.total);
  } else {
    const std::vector<int64_t> budgets =
        shares != nullptr ? *shares : reference::HeadTotals(policy, c.layer, c.emitted, c.total, &outcome.unsplit);
    for (int32_t h = 0; h < c.heads; ++h) {
      outcome.keep.push_back(reference::SelectUnit(policy, c.layer, h, rows, c.emitted[h], budgets[h]));
    }
  }
  for (const auto& keep : outcome.keep) outcome.kept.push_back(static_cast<int32_t>(std::ranges::count(keep, true)));
  return outcome;
}

std::string NameOf(const LayerCase& c, uint32_t seed) {
  return "seed " + std::to_string(seed) + ", head " + std::to_string(static_cast<int>(c.policy.head.kind)) +
         ", select " + std::to_string(static_cast<int>(c.policy.select.kind));
}

TEST(SelectLayer, EqualsTheReference) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    LayerCase c = DrawCase(seed);
    const int64_t protected_tokens = c.scores.offsets.back() - c.candidates;
    const Outcome outcome = Select(c, c.total + protected_tokens, {}, Serially);
    const Outcome expected = Reference(c, nullptr);
    ASSERT_EQ(outcome.keep, expected.keep) << NameOf(c, seed);
    ASSERT_EQ(outcome.kept, expected.kept) << NameOf(c, seed);
    ASSERT_EQ(outcome.unsplit, expected.unsplit) << NameOf(c, seed);

    const int64_t kept = std::accumulate(outcome.kept.begin(), outcome.kept.end(), int64_t{0}) - protected_tokens;
    ASSERT_LE(kept, c.total) << NameOf(c, seed);
    ASSERT_GE(kept, c.policy.select.kind == Select::Kind::kBlock ? c.total - 15 : c.total) << NameOf(c, seed);
  }
}

TEST(SelectLayer, TakesSharesThatAreDecided) {
  for (uint32_t seed = 0; seed < 600; ++seed) {
    LayerCase c = DrawCase(seed);
    if (c.policy.select.kind == Select::Kind::kBlock) continue;
    std::mt19937 random(seed);
    std::vector<int64_t> shares;
    for (const auto& unit : c.emitted) {
      const auto size = std::ranges::count_if(unit.scores, [](double score) { return score >= 0; });
      shares.push_back(Below(random, static_cast<int32_t>(size) + 1));
    }
    const Outcome outcome = Select(c, 0, shares, Serially);
    ASSERT_EQ(outcome, Reference(c, &shares)) << NameOf(c, seed);
  }
}

TEST(SelectLayer, DoesNotDependOnThreads) {
  const ParallelFor on_threads = [](int64_t count, const std::function<void(int64_t)>& body) {
    std::vector<std::thread> threads;
    for (int64_t first = 0; first < 3; ++first) {
      threads.emplace_back([&body, count, first] {
        for (int64_t i = count - 1 - first; i >= 0; i -= 3) body(i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  for (uint32_t seed = 0; seed < 300; ++seed) {
    LayerCase c = DrawCase(seed);
    const int64_t total = c.total + c.scores.offsets.back() - c.candidates;
    ASSERT_EQ(Select(c, total, {}, on_threads), Select(c, total, {}, Serially)) << NameOf(c, seed);
  }
}

// A layer whose scores are given, under top_k unless the test says otherwise.
LayerCase CaseOf(const std::vector<std::vector<float>>& rows) {
  LayerCase c;
  c.heads = static_cast<int32_t>(rows.size());
  c.scores.offsets = {0};
  for (const auto& row : rows) {
    c.scores.scores.insert(c.scores.scores.end(), row.begin(), row.end());
    c.scores.offsets.push_back(static_cast<int64_t>(c.scores.scores.size()));
    c.emitted.emplace_back().scores.assign(row.begin(), row.end());
  }
  return c;
}

TEST(SelectLayer, TiesGoToTheLowerHeadThenTheLowerPosition) {
  LayerCase c = CaseOf({{1, 1, 1}, {1, 1, 1}, {1, 1, 1}});
  c.policy.head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 0};
  EXPECT_EQ(Select(c, 5, {}, Serially).keep, (Masks{{true, true, true}, {true, true, false}, {false, false, false}}));
}

TEST(SelectLayer, FloorGuaranteesAShareOfTheUniformBudget) {
  // Head 1 has only poor scores; alpha 0.5 of c = 4 guarantees it its own best 2.
  LayerCase c = CaseOf({{9, 9, 9, 9, 9, 9, 9, 9}, {1, 2, 3, 4, 5, 6, 7, 8}});
  c.policy.head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 500'000};
  const Outcome outcome = Select(c, 8, {}, Serially);
  EXPECT_EQ(outcome.kept, (std::vector<int32_t>{6, 2}));
  EXPECT_EQ(outcome.keep[1], (std::vector<bool>{false, false, false, false, false, false, true, true}));
}

TEST(SelectLayer, KeepsProtectedTokensAnywhere) {
  LayerCase c = CaseOf({{3, kProtected, 1, kProtected, 2}});
  EXPECT_EQ(Select(c, 3, {}, Serially).keep, (Masks{{true, true, false, true, false}}));
}

TEST(SelectLayer, MoreThanThereIsKeepsAll) {
  LayerCase c = CaseOf({{kProtected, 1}, {2, kProtected}});
  EXPECT_EQ(Select(c, 100, {}, Serially).keep, (Masks{{true, true}, {true, true}}));
}

}  // namespace
}  // namespace kvsteward::engine
