// Stage 4 on the host against the reference: every refinement, with candidates that have holes anywhere, heads that
// hold different positions, and pools wider than the unit.
#include "kernels/cpu/refine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/norms.h"
#include "kernels/cpu/pools.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/paged_sequence.h"
#include "tests/kernels/random_cases.h"
#include "tests/reference/arithmetic.h"
#include "tests/reference/refine.h"

namespace kvsteward::engine::cpu {
namespace {

using Kind = Refinement::Kind;
using Scale = Refinement::Scale;

// Candidates of a unit: one in `sparsity` of those in the middle is a hole.
CandidateSet RandomCandidates(Random& random, int32_t length, int32_t sparsity) {
  CandidateSet candidates;
  candidates.begin = std::min(length, Between(random, 0, 3));
  candidates.end = std::max(candidates.begin, length - Between(random, 0, 3));
  for (int32_t j = candidates.begin; j < candidates.end; ++j) {
    if (sparsity > 0 && Between(random, 1, sparsity) == 1) candidates.holes.push_back(j);
  }
  return candidates;
}

std::vector<bool> Flags(const CandidateSet& candidates, int32_t length) {
  std::vector<bool> flags(static_cast<size_t>(length), false);
  ForEachStretch(candidates, [&](int32_t begin, int32_t end) {
    for (int32_t j = begin; j < end; ++j) flags[static_cast<size_t>(j)] = true;
  });
  return flags;
}

// A layer of three kv heads, refined by the host and by the reference.
void ExpectAsReference(const Policy& policy, const Shape& shape, int32_t sparsity, uint32_t seed) {
  Random random(seed);
  PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, seed);
  const SequenceView view = sequence.View();
  ThreadPool threads(2);
  if (policy.reads_norms()) {
    ASSERT_TRUE(FillNorms(view, 0, policy.norm(), threads).ok());
  }

  std::vector<CandidateSet> candidates;
  std::vector<std::vector<bool>> flags;
  for (const UnitView& unit : view.units) {
    candidates.push_back(RandomCandidates(random, unit.length, sparsity));
    if (policy.group.span == Group::Span::kLayer) candidates.back() = candidates.front();
    flags.push_back(Flags(candidates.back(), unit.length));
  }
  const int64_t share = Between(random, 0, 20);
  const Refiner refiner(view, policy, 0, share, threads);
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const auto at = static_cast<size_t>(head);
    std::vector<float> scores;
    for (int32_t j = 0; j < view.units[at].length; ++j) {
      scores.push_back(random() % 8 == 0 ? 0.0f : static_cast<float>(random()) * 0x1p-32f);
    }
    double greatest = 0;
    double noise = 0;
    const reference::Row expected =
        reference::Refined(sequence.plain().contents, MirrorOf(policy), 0, head,
                           reference::Row(scores.begin(), scores.end()), flags, share, &greatest, &noise);
    ASSERT_EQ(refiner.Refine(head, candidates[at], scores), -1);
    size_t next = 0;
    for (size_t j = 0; j < scores.size(); ++j) {
      if (!flags[at][j]) continue;
      ASSERT_NEAR(scores[j], expected[next], 1e-6 * expected[next] + 1e-30) << "seed " << seed << " index " << j;
      ++next;
    }
  }
}

void ExpectAsReference(const std::vector<Refinement>& refinements) {
  for (uint32_t seed = 0; seed < 24; ++seed) {
    Policy policy;
    policy.refine = refinements;
    Shape shape;
    shape.kv_heads = 3;
    shape.equal = seed % 3 == 0;
    shape.gaps = seed % 2 == 0;
    shape.dtype = seed % 4 == 1 ? DType::kBF16 : DType::kF32;
    shape.lengths = {static_cast<int32_t>(40 + seed), 1, static_cast<int32_t>(5 * seed + 2)};
    if (seed % 5 == 4) shape.numbers = Numbers::kZeroValues;
    if (shape.equal) policy.group.span = Group::Span::kLayer;
    ExpectAsReference(policy, shape, static_cast<int32_t>(seed % 4), seed);
  }
}

TEST(Refine, Pools) {
  for (const int32_t pool : {1, 3, 7, 31, 63, 501}) {
    ExpectAsReference({{.kind = Kind::kMaxPool, .pool = pool}});
    for (const auto edge : {Refinement::Edge::kPadded, Refinement::Edge::kValid}) {
      ExpectAsReference({{.kind = Kind::kAvgPool, .pool = pool, .edge = edge}});
    }
  }
}

TEST(Refine, ValuePriors) {
  for (const Scale scale : {Scale::kMax, Scale::kMean, Scale::kNone, Scale::kHeads}) {
    for (const Norm norm : {Norm::kL2Squared, Norm::kL2, Norm::kL1}) {
      for (const int32_t pool : {1, 7}) {
        for (const auto edge : {Refinement::Edge::kPadded, Refinement::Edge::kValid}) {
          ExpectAsReference({{.kind = Kind::kValuePrior, .pool = pool, .edge = edge, .norm = norm, .scale = scale}});
        }
      }
    }
  }
}

TEST(Refine, FactorsOfAUnit) {
  for (const Norm norm : {Norm::kL2Squared, Norm::kL2, Norm::kL1}) {
    ExpectAsReference({{.kind = Kind::kValueScale, .norm = norm}});
  }
  ExpectAsReference({{.kind = Kind::kMassRatio}});
  ExpectAsReference({{.kind = Kind::kClampToMean}});
}

TEST(Refine, InOrder) {
  ExpectAsReference({{.kind = Kind::kMaxPool, .pool = 5},
                     {.kind = Kind::kClampToMean},
                     {.kind = Kind::kValuePrior, .pool = 3, .norm = Norm::kL2, .scale = Scale::kHeads},
                     {.kind = Kind::kMassRatio},
                     {.kind = Kind::kValuePrior, .scale = Scale::kNone},
                     {.kind = Kind::kAvgPool, .pool = 3}});
}

// Positions so far apart that heads share some of the ranges they are added up in, and miss others.
TEST(Refine, HeadsThatHoldFewPositionsInCommon) {
  Policy policy;
  policy.refine = {{.kind = Kind::kValuePrior, .scale = Scale::kHeads}};
  for (uint32_t seed = 0; seed < 4; ++seed) {
    Shape shape;
    shape.kv_heads = 3;
    shape.head_dim = 2;
    shape.gaps = true;
    shape.lengths = {3000, 4500, 5000};
    ExpectAsReference(policy, shape, 3, seed);
  }
}

TEST(Refine, TinyScoresBecomeZeroBeforeAndAfterEachRefinement) {
  Random random(1);
  Shape shape;
  shape.kv_heads = 1;
  shape.group = 1;
  shape.lengths = {6};
  PagedSequence sequence(MakeSequence(random, shape), Placement::kContiguous, 1);
  const SequenceView view = sequence.View();
  ThreadPool threads(1);
  Policy policy;
  policy.refine = {{.kind = Kind::kAvgPool, .pool = 3}};
  const Refiner refiner(view, policy, 0, 1, threads);
  std::vector<float> scores = {0x1p-101f, 0, 0, 0x1p-100f, 0, 0};
  EXPECT_EQ(refiner.Refine(0, {.begin = 0, .end = 6, .holes = {}}, scores), -1);
  EXPECT_EQ(scores, std::vector<float>(6, 0.0f));
}

TEST(Refine, NamesTheFirstScoreThatIsNotFinite) {
  Random random(1);
  Shape shape;
  shape.kv_heads = 1;
  shape.group = 1;
  shape.lengths = {40};
  shape.numbers = Numbers::kHugeValues;
  PagedSequence sequence(MakeSequence(random, shape), Placement::kContiguous, 1);
  const SequenceView view = sequence.View();
  ThreadPool threads(1);
  ASSERT_TRUE(FillNorms(view, 0, Norm::kL2Squared, threads).ok());
  const CandidateSet candidates{.begin = 2, .end = 38, .holes = {2, 3, 9, 20}};
  Policy policy;
  policy.refine = {{.kind = Kind::kMaxPool, .pool = 3}};
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> scores(40, 1.0f);
  scores[0] = scores[9] = scores[39] = infinity;  // no candidates
  EXPECT_EQ(Refiner(view, policy, 0, 1, threads).Refine(0, candidates, scores), -1);
  scores.assign(40, 1.0f);
  scores[21] = std::nanf("");
  EXPECT_EQ(Refiner(view, policy, 0, 1, threads).Refine(0, candidates, scores), 21);
  scores.assign(40, 0.0f);
  scores[10] = 1000;  // times a norm near 1e38
  policy.refine = {{.kind = Kind::kValuePrior, .scale = Scale::kNone}};
  EXPECT_EQ(Refiner(view, policy, 0, 1, threads).Refine(0, candidates, scores), 10);
}

TEST(Pools, CarryNothingOverFromOneValueToFarOnes) {
  std::vector<float> values(4000, 1e-30f);
  values[500] = 1e30f;
  AveragePool(values, 7, Refinement::Edge::kValid);
  EXPECT_FLOAT_EQ(values[496], 1e-30f);
  EXPECT_FLOAT_EQ(values[497], 1e30f / 7);
  EXPECT_FLOAT_EQ(values[503], 1e30f / 7);
  EXPECT_FLOAT_EQ(values[504], 1e-30f);
}

}  // namespace
}  // namespace kvsteward::engine::cpu
