// Random policies: whatever Validate lets pass is read as itself from its canonical form, and has only one such form.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

// Draws fields that each are within their range most of the time; combinations are left to chance.
class Draw {
 public:
  explicit Draw(uint32_t seed) : random_(seed) {}

  int64_t Number(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(random_); }
  bool Once(int64_t in) { return Number(1, in) == 1; }
  int32_t Odd(int32_t most) { return static_cast<int32_t>(Number(0, (most - 1) / 2)) * 2 + 1; }
  // With kinds 0 to `last`.
  template <class E>
  E Kind(E last) {
    return static_cast<E>(Number(0, static_cast<int64_t>(last)));
  }

  Policy Any() {
    Policy p;
    p.name = "p" + std::to_string(Number(0, 99));
    if (Once(3)) p.window = static_cast<int32_t>(Number(0, 100));
    p.signal.kind = Once(2) ? Signal::Kind::kSoftmax : Kind(Signal::Kind::kExpected);
    if (p.signal.kind == Signal::Kind::kStepGainSoftmax) p.signal.g_min_ppm = Number(0, 1000 * kPpm);
    if (p.signal.kind == Signal::Kind::kPower) p.signal.exponent_ppm = Number(1, 4 * kPpm);
    if (p.signal.windowed()) p.signal.over = Kind(Signal::Over::kCandidates);
    if (p.signal.windowed()) AnyAccumulate(p);
    if (!Once(3)) p.group.kind = Kind(Group::Kind::kSum);
    if (Once(3)) p.group.span = Group::Span::kLayer;
    if (Once(3)) p.group.place = Group::Place::kAfterRefine;
    for (int64_t i = Number(0, 3) - 1; i > 0; --i) p.refine.push_back(AnyRefinement());
    AnyProtect(p);
    AnyBudgets(p);
    if (Once(2)) p.select.kind = Kind(Select::Kind::kBlock);
    const bool random = p.select.kind == Select::Kind::kTopKRandom;
    if (random || p.select.kind == Select::Kind::kTwoStage) p.select.fraction_ppm = Number(0, kPpm);
    if (random) p.select.seed = static_cast<uint32_t>(Number(0, UINT32_MAX));
    if (p.select.kind == Select::Kind::kTwoLists) p.select.share_ppm = Number(0, kPpm);
    return p;
  }

 private:
  void AnyAccumulate(Policy& p) {
    p.accumulate.kind = Kind(Accumulate::Kind::kRunning);
    if (p.accumulate.kind == Accumulate::Kind::kMeanVar) p.accumulate.gamma_ppm = Number(0, kPpm * kPpm);
    if (p.accumulate.kind == Accumulate::Kind::kRunning) {
      p.accumulate.decay_ppm = Number(0, kPpm);
      p.window = 0;
    }
    if (Once(3)) p.accumulate.row_pool = Odd(33);
  }

  Refinement AnyRefinement() {
    Refinement r;
    r.kind = Kind(Refinement::Kind::kMassRatio);
    const bool prior = r.kind == Refinement::Kind::kValuePrior;
    const bool average = r.kind == Refinement::Kind::kAvgPool;
    if (prior || average || r.kind == Refinement::Kind::kMaxPool) r.pool = Odd(4095);
    if (prior || average) r.edge = Kind(Refinement::Edge::kValid);
    if (prior || r.kind == Refinement::Kind::kValueScale) r.norm = Kind(Norm::kL1);
    if (prior) r.scale = Kind(Refinement::Scale::kHeads);
    return r;
  }

  void AnyProtect(Policy& p) {
    p.protect.sinks = static_cast<int32_t>(Number(0, 9));
    p.protect.recent_kind = Kind(Protect::Recent::kBudgetOver);
    p.protect.recent = static_cast<int32_t>(Once(9) ? INT32_MAX : Number(0, 99));
    for (int32_t c = static_cast<int32_t>(Number(0, 500)); c < 256; c += static_cast<int32_t>(Number(1, 99))) {
      p.protect.classes.push_back(c);
    }
    if (Once(4)) p.protect.mass_ppm = Number(0, kPpm);
  }

  void AnyBudgets(Policy& p) {
    const int64_t layers = Number(1, 5), heads = Number(1, 5);
    p.layer.kind = Kind(LayerBudget::Kind::kGlobal);
    if (p.layer.kind == LayerBudget::Kind::kTable) {
      for (int64_t l = 0; l < layers; ++l) p.layer.table_ppm.push_back(Number(0, kPpm * kPpm));
    }
    if (p.layer.kind == LayerBudget::Kind::kPyramid) p.layer.beta_ppm = Number(kPpm, INT64_MAX);
    if (!Once(3)) p.head.kind = Kind(HeadBudget::Kind::kSplit);
    if (p.head.kind == HeadBudget::Kind::kAdaFloor || p.head.kind == HeadBudget::Kind::kAdaBlend) {
      p.head.alpha_ppm = Number(0, kPpm);
    }
    if (p.head.kind == HeadBudget::Kind::kTable) {
      for (int64_t l = 0; l < layers; ++l) {
        p.head.table_ppm.emplace_back();
        for (int64_t h = 0; h < heads; ++h) p.head.table_ppm.back().push_back(Number(0, kPpm));
      }
    }
    if (p.head.kind == HeadBudget::Kind::kCheapest) p.head.mass_ppm = Number(0, kPpm);
    if (p.head.kind == HeadBudget::Kind::kSplit) p.head.full_heads = static_cast<int32_t>(Number(1, INT32_MAX));
  }

  std::mt19937 random_;
};

void ExpectRoundTrip(const Policy& policy) {
  const std::string yaml = PolicyToYaml(policy);
  const absl::StatusOr<Policy> parsed = PolicyFromYaml(yaml);
  ASSERT_TRUE(parsed.ok()) << parsed.status() << "\n" << yaml;
  ASSERT_EQ(*parsed, policy) << yaml;
  ASSERT_EQ(PolicyToYaml(*parsed), yaml);
}

TEST(PolicyRoundTrip, Presets) {
  for (const std::string& name : PresetNames()) ExpectRoundTrip(*Preset(name));
}

TEST(PolicyRoundTrip, RandomPolicies) {
  Draw draw(7);
  int valid = 0;
  std::map<std::string, int> kinds;  // how many valid policies had each kind
  for (int i = 0; i < 10'000; ++i) {
    const Policy policy = draw.Any();
    if (!Validate(policy).ok()) continue;
    ++valid;
    ASSERT_NO_FATAL_FAILURE(ExpectRoundTrip(policy));
    ++kinds["signal " + std::to_string(static_cast<int>(policy.signal.kind))];
    ++kinds["accumulate " + std::to_string(static_cast<int>(policy.accumulate.kind))];
    ++kinds["group " + std::to_string(static_cast<int>(policy.group.kind))];
    ++kinds["layer " + std::to_string(static_cast<int>(policy.layer.kind))];
    ++kinds["head " + std::to_string(static_cast<int>(policy.head.kind))];
    ++kinds["select " + std::to_string(static_cast<int>(policy.select.kind))];
    for (const Refinement& r : policy.refine) ++kinds["refine " + std::to_string(static_cast<int>(r.kind))];
  }
  EXPECT_GT(valid, 1000);
  EXPECT_EQ(kinds.size(), 8u + 5 + 3 + 6 + 6 + 6 + 5);  // every kind of every stage came along
}

}  // namespace
}  // namespace kvsteward::engine
