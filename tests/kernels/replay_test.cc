// `kvsteward replay` in process: from a file of tensors, through every stage, to a file with the plan.
#include "app/replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "tests/kernels/mirror.h"
#include "tests/kernels/random_cases.h"

namespace kvsteward::replay {
namespace {

using engine::Between;
using engine::Budget;
using engine::DType;
using engine::Policy;
using engine::Preset;
using engine::Random;
using safetensors::Type;
using ::testing::HasSubstr;

std::string TempPath(const std::string& name) {
  return ::testing::TempDir() + name + "." + std::to_string(getpid()) + ".safetensors";
}

// Tensors under construction. Everything is owned here.
class Recording {
 public:
  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape, const std::vector<double>& numbers) {
    std::vector<std::byte>& bytes = bytes_[name];
    bytes.resize(numbers.size() * engine::SizeOf(dtype));
    for (size_t i = 0; i < numbers.size(); ++i) engine::Encode(dtype, numbers[i], &bytes[i * engine::SizeOf(dtype)]);
    const Type type = dtype == DType::kF32 ? Type::kF32 : dtype == DType::kF16 ? Type::kF16 : Type::kBF16;
    tensors[name] = {type, std::move(shape), bytes};
  }
  void Add(const std::string& name, std::vector<int64_t> shape, const std::vector<int32_t>& integers) {
    const auto raw = std::as_bytes(std::span(integers));
    std::vector<std::byte>& bytes = bytes_[name];
    bytes.assign(raw.begin(), raw.end());
    tensors[name] = {Type::kI32, std::move(shape), bytes};
  }
  void AddClasses(std::vector<int64_t> shape, const std::vector<int>& classes) {
    const std::string name = "classes";
    const std::vector<uint8_t> integers(classes.begin(), classes.end());
    const auto raw = std::as_bytes(std::span(integers));
    std::vector<std::byte>& bytes = bytes_[name];
    bytes.assign(raw.begin(), raw.end());
    tensors[name] = {Type::kU8, std::move(shape), bytes};
  }
  absl::StatusOr<ReplayInput> Load() const {
    const std::string path = TempPath("recording");
    if (absl::Status status = safetensors::Write(path, tensors, {}); !status.ok()) return status;
    return LoadReplay(path);
  }

  std::map<std::string, safetensors::Tensor> tensors;

 private:
  std::map<std::string, std::vector<std::byte>> bytes_;
};

constexpr int32_t kLayers = 2;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kTokens = 100;
constexpr int32_t kRows = 8;
constexpr int32_t kDim = 16;

engine::PlainSequence RandomSequence(uint32_t seed, DType dtype, std::vector<int32_t> lengths) {
  Random random(seed);
  engine::Shape shape;
  shape.layers = kLayers;
  shape.kv_heads = kKvHeads;
  shape.head_dim = kDim;
  shape.rows = kRows;
  shape.dtype = dtype;
  shape.query_dtype = dtype;
  shape.lengths = std::move(lengths);
  shape.moments = true;
  return engine::MakeSequence(random, shape);
}

// The sequence as a recording, rows padded to kTokens with NaN.
Recording Record(const engine::PlainSequence& plain) {
  std::vector<double> keys;
  std::vector<double> values;
  std::vector<int32_t> lengths;
  for (const reference::Unit& unit : plain.contents.units) {
    keys.insert(keys.end(), unit.keys.begin(), unit.keys.end());
    values.insert(values.end(), unit.values.begin(), unit.values.end());
    lengths.push_back(static_cast<int32_t>(unit.positions.size()));
    keys.resize(lengths.size() * kTokens * kDim, std::numeric_limits<double>::quiet_NaN());
    values.resize(lengths.size() * kTokens * kDim, std::numeric_limits<double>::quiet_NaN());
  }
  Recording recording;
  recording.Add("keys", plain.dtype, {kLayers, kKvHeads, kTokens, kDim}, keys);
  recording.Add("values", plain.dtype, {kLayers, kKvHeads, kTokens, kDim}, values);
  recording.Add("queries", plain.query_dtype, {kLayers, plain.contents.query_heads, kRows, kDim},
                plain.contents.queries);
  recording.Add("lengths", {kLayers, kKvHeads}, lengths);
  return recording;
}

// All that any policy reads.
void AddInputs(const engine::PlainSequence& plain, Recording& recording) {
  const reference::Inputs& inputs = plain.contents.inputs;
  const auto padded = [](const std::vector<reference::Row>& units) {
    reference::Row all;
    for (const reference::Row& unit : units) {
      all.insert(all.end(), unit.begin(), unit.end());
      all.resize((all.size() + kTokens - 1) / kTokens * kTokens, std::numeric_limits<double>::quiet_NaN());
    }
    return all;
  };
  recording.Add("scores", DType::kF32, {kLayers, kKvHeads, kTokens}, padded(inputs.scores));
  recording.Add("projected_norms", DType::kF32, {kLayers, kKvHeads, kTokens}, padded(inputs.projected_norms));
  const int64_t heads = plain.contents.query_heads;
  recording.Add("query_mean", DType::kF32, {kLayers, heads, kDim}, inputs.query_mean);
  recording.Add("query_cov", DType::kF32, {kLayers, heads, kDim, kDim}, inputs.query_covariance);
  recording.AddClasses({static_cast<int64_t>(inputs.classes.size())}, inputs.classes);
}

Recording FullRecording() { return Record(RandomSequence(1, DType::kF32, {100, 100, 100, 100})); }

TEST(Replay, FileThroughEveryStage) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const engine::PlainSequence plain = RandomSequence(3, dtype, {100, 90, 77, 100});
    const Recording recording = Record(plain);
    const absl::StatusOr<ReplayInput> input = recording.Load();
    ASSERT_TRUE(input.ok()) << input.status();
    EXPECT_EQ(input->seen, 100);
    const Policy policy = *Preset("ahakv-ada");
    const absl::StatusOr<ReplayOutput> output = ReplayInProcess(*input, policy, *engine::ParseBudget("50%"), 2);
    ASSERT_TRUE(output.ok()) << output.status();

    const std::string path = TempPath("plan");
    ASSERT_TRUE(WriteReplay(path, *input, policy, *output).ok());
    const absl::StatusOr<safetensors::File> file = safetensors::File::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto tensor = [&](const char* name, Type type, const std::vector<int64_t>& shape) {
      const safetensors::Tensor* found = file->Find(name);
      EXPECT_NE(found, nullptr) << name;
      EXPECT_EQ(found->type, type) << name;
      EXPECT_EQ(found->shape, shape) << name;
      return found->bytes.data();
    };
    const auto* keep = reinterpret_cast<const uint8_t*>(tensor("keep", Type::kU8, {2, 2, 100}));
    const auto* scores = reinterpret_cast<const float*>(tensor("scores", Type::kF32, {2, 2, 100}));
    const auto* head_budgets = reinterpret_cast<const int32_t*>(tensor("head_budgets", Type::kI32, {2, 2}));
    const auto* layer_budgets = reinterpret_cast<const int32_t*>(tensor("layer_budgets", Type::kI32, {2}));
    EXPECT_EQ(layer_budgets[0], 100);
    EXPECT_EQ(layer_budgets[1], 100);

    // The very plan that the reference makes: of its own scores (within epsilon) and of these.
    const reference::Policy mirror = engine::MirrorOf(policy);
    std::vector<reference::Emitted> emitted;
    for (int layer = 0; layer < 2; ++layer) {
      for (const reference::UnitScores& exact : reference::ScoreLayer(plain.contents, mirror, 50, layer)) {
        const size_t u = emitted.size();
        emitted.emplace_back().positions = plain.contents.units[u].positions;
        for (size_t j = 0; j < exact.scores.size(); ++j) {
          const bool is_protected = exact.scores[j] == reference::kProtected;
          EXPECT_NEAR(scores[u * 100 + j], is_protected ? 0 : exact.scores[j],
                      is_protected ? 0 : exact.Epsilon(exact.scores[j], exact.mean));
          emitted.back().scores.push_back(is_protected ? reference::kProtected : scores[u * 100 + j]);
        }
      }
    }
    const std::vector<std::vector<bool>> expected = reference::Decide(mirror, 2, 2, 50, kRows, emitted).keep;
    for (size_t u = 0; u < 4; ++u) {
      int32_t kept = 0;
      for (size_t j = 0; j < 100; ++j) {
        EXPECT_EQ(keep[u * 100 + j], j < expected[u].size() && expected[u][j] ? 1 : 0) << u << " " << j;
        if (j >= expected[u].size()) {
          EXPECT_EQ(scores[u * 100 + j], 0.0f);
        }
        kept += keep[u * 100 + j];
      }
      EXPECT_EQ(head_budgets[u], kept);
    }
    EXPECT_EQ(*engine::PolicyFromYaml(file->metadata().at("policy")), policy);
    EXPECT_EQ(file->metadata().at("backend"), "host");
    EXPECT_FALSE(file->metadata().at("version").empty());
  }
}

TEST(Replay, NoOpKeepsAllWithScoresOfZero) {
  const absl::StatusOr<ReplayInput> input = FullRecording().Load();
  const absl::StatusOr<ReplayOutput> output =
      ReplayInProcess(*input, *Preset("ahakv-ada"), *engine::ParseBudget("100"), 1);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->keep, std::vector<uint8_t>(400, 1));
  EXPECT_EQ(output->scores, std::vector<float>(400, 0.0f));
  EXPECT_EQ(output->head_budgets, std::vector<int32_t>(4, 100));
  EXPECT_EQ(output->layer_budgets, std::vector<int32_t>(2, 200));
}

TEST(Replay, WhatAPolicyDoesNotReadMayBeAbsent) {
  const Budget budget = *engine::ParseBudget("50");
  const absl::StatusOr<ReplayInput> full = FullRecording().Load();
  ASSERT_TRUE(full.ok());
  struct Case {
    const char* policy;
    std::vector<std::string> absent;
    const char* missing;  // what is asked for, or nullptr
  };
  for (const Case& c : {Case{"snapkv", {"values"}, nullptr}, Case{"streaming-llm", {"queries"}, nullptr},
                        Case{"streaming-llm", {"queries", "keys"}, nullptr},
                        Case{"streaming-llm", {"queries", "values"}, nullptr}, Case{"snapkv", {"keys"}, "'keys'"},
                        Case{"snapkv", {"queries"}, "'queries'"}, Case{"ahakv-ada", {"values"}, "'values'"}}) {
    Recording recording = FullRecording();
    for (const std::string& name : c.absent) recording.tensors.erase(name);
    const absl::StatusOr<ReplayInput> input = recording.Load();
    ASSERT_TRUE(input.ok()) << input.status();
    const absl::StatusOr<ReplayOutput> output = ReplayInProcess(*input, *Preset(c.policy), budget, 1);
    if (c.missing != nullptr) {
      EXPECT_EQ(output.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(output.status().message()), HasSubstr(c.missing));
      continue;
    }
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->keep, ReplayInProcess(*full, *Preset(c.policy), budget, 1)->keep) << c.policy;
  }
  // Neither K nor V: queries tell the head dimension, positions the rest.
  Recording positions = FullRecording();
  positions.tensors.erase("keys");
  positions.tensors.erase("values");
  std::vector<int32_t> all(kTokens);
  for (int32_t j = 0; j < kTokens; ++j) all[j] = 2 * j;
  positions.Add("positions", {kTokens}, all);
  const absl::StatusOr<ReplayInput> input = positions.Load();
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->seen, 199);
  EXPECT_EQ(input->query_positions.front(), 2 * (kTokens - kRows));
  EXPECT_TRUE(ReplayInProcess(*input, *Preset("streaming-llm"), budget, 1).ok());
}

TEST(Replay, EveryPresetReadsItsTensorsAndNoOthers) {
  const engine::PlainSequence plain = RandomSequence(5, DType::kBF16, {100, 80, 100, 60});
  const engine::PlainSequence equal = RandomSequence(6, DType::kBF16, {100, 100, 90, 90});
  for (const std::string& name : engine::PresetNames()) {
    const Policy policy = *Preset(name);
    const bool over_layer = policy.group.span == engine::Group::Span::kLayer;
    Recording recording = Record(over_layer ? equal : plain);
    AddInputs(over_layer ? equal : plain, recording);
    const absl::StatusOr<ReplayInput> whole = recording.Load();
    ASSERT_TRUE(whole.ok()) << whole.status();
    const absl::StatusOr<ReplayOutput> expected = ReplayInProcess(*whole, policy, *engine::ParseBudget("60"), 2);
    ASSERT_TRUE(expected.ok()) << name << ": " << expected.status();
    for (const auto& [tensor, read] : {std::pair{"queries", policy.reads_queries()},
                                       {"keys", policy.reads_keys()},
                                       {"values", policy.reads_values()},
                                       {"scores", policy.reads_scores()},
                                       {"classes", policy.reads_classes()},
                                       {"projected_norms", policy.reads_projected_norms()},
                                       {"query_mean", policy.reads_moments()},
                                       {"query_cov", policy.reads_moments()}}) {
      Recording without = recording;
      without.tensors.erase(tensor);
      const absl::StatusOr<ReplayInput> input = without.Load();
      ASSERT_TRUE(input.ok()) << input.status();
      const absl::StatusOr<ReplayOutput> output = ReplayInProcess(*input, policy, *engine::ParseBudget("60"), 2);
      if (read) {
        EXPECT_EQ(output.status().code(), absl::StatusCode::kInvalidArgument) << name << " without " << tensor;
        EXPECT_THAT(std::string(output.status().message()), HasSubstr("'" + std::string(tensor) + "' is missing"));
      } else {
        ASSERT_TRUE(output.ok()) << name << " without " << tensor << ": " << output.status();
        EXPECT_EQ(output->keep, expected->keep) << name << " without " << tensor;
      }
    }
  }
}

TEST(Replay, PositionsPerUnit) {
  Recording recording = FullRecording();
  std::vector<int32_t> positions;
  for (int32_t u = 0; u < kLayers * kKvHeads; ++u) {
    for (int32_t j = 0; j < kTokens; ++j) positions.push_back(3 * j + u);
  }
  recording.Add("lengths", {kLayers, kKvHeads}, {100, 3, 0, 50});
  for (size_t j = 103; j < 300; ++j) positions[j] = -7;  // beyond lengths: not looked at
  recording.Add("positions", {kLayers, kKvHeads, kTokens}, positions);
  EXPECT_THAT(std::string(recording.Load().status().message()), HasSubstr("'query_positions' is missing"));
  recording.Add("query_positions", {kRows}, {200, 290, 291, 292, 293, 294, 295, 310});
  const absl::StatusOr<ReplayInput> input = recording.Load();
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->seen, 311);
  const absl::StatusOr<ReplayOutput> output =
      ReplayInProcess(*input, *Preset("streaming-llm"), *engine::ParseBudget("10"), 1);
  ASSERT_TRUE(output.ok()) << output.status();
  // Layer 0 has 103 residents, layer 1 has 50. Sinks are positions below 4, recent the last 6.
  EXPECT_EQ(output->head_budgets[1], 3);
  EXPECT_EQ(output->head_budgets[2], 0);
  EXPECT_EQ(output->keep[0], 1);  // positions 0 and 3
  EXPECT_EQ(output->keep[1], 1);
  EXPECT_EQ(output->keep[2], 0);
}

TEST(Replay, RefusesMalformedTensors) {
  const std::vector<int32_t> hundred(kTokens, 5);
  const struct {
    const char* message;
    std::function<void(Recording&)> spoil;
  } cases[] = {
      {"'keys' is I32", [](Recording& r) { r.tensors["keys"].type = Type::kI32; }},
      {"'lengths' is F32", [](Recording& r) { r.tensors["lengths"].type = Type::kF32; }},
      {"'values' is F16, but tensor 'keys' is F32",
       [](Recording& r) {
         r.tensors["values"].type = Type::kF16;
         r.tensors["values"].bytes = r.tensors["values"].bytes.first(r.tensors["values"].bytes.size() / 2);
       }},
      {"'keys' has 3 dimensions; it must be [layers, kv_heads, n, head_dim]",
       [](Recording& r) {
         r.tensors["keys"].shape = {4, 100, 16};
       }},
      {"'values' has n = 50, but tensor 'keys' has 100",
       [](Recording& r) {
         r.tensors["values"].shape = {2, 2, 50, 32};
       }},
      {"kv_heads = 4, but tensor 'keys' has 2",
       [](Recording& r) {
         r.tensors["values"].shape = {2, 4, 50, 16};
       }},
      {"'queries' has head_dim = 8",
       [](Recording& r) {
         r.tensors["queries"].shape = {2, 4, 16, 8};
       }},
      {"query_heads = 1; it must be a multiple",
       [](Recording& r) {
         r.tensors["queries"].shape = {2, 1, 32, 16};
       }},
      {"'keys' has layers = 0",
       [](Recording& r) {
         r.tensors["keys"] = {Type::kF32, {0, 2, 100, 16}, {}};
       }},
      {"'lengths' has 101",
       [](Recording& r) {
         r.Add("lengths", {2, 2}, {101, 1, 1, 1});
       }},
      {"'lengths' has -1",
       [](Recording& r) {
         r.Add("lengths", {2, 2}, {1, 1, -1, 1});
       }},
      {"'lengths' has layers = 4",
       [](Recording& r) {
         r.tensors["lengths"].shape = {4, 1};
       }},
      {"'positions' has 5 after 5", [&](Recording& r) { r.Add("positions", {kTokens}, hundred); }},
      {"'positions' has 2 dimensions",
       [&](Recording& r) {
         r.Add("positions", {10, 10}, hundred);
       }},
      {"'positions' has -1 after -1",
       [](Recording& r) {
         std::vector<int32_t> positions(kTokens);
         for (int32_t j = 0; j < kTokens; ++j) positions[j] = j - 1;
         r.Add("positions", {kTokens}, positions);
       }},
      {"'query_positions' has w = 3, but tensor 'queries' has 8",
       [](Recording& r) {
         r.Add("query_positions", {3}, {1, 2, 3});
       }},
      {"'query_positions' has 7 after 9",
       [](Recording& r) {
         r.Add("query_positions", {8}, {1, 2, 3, 4, 5, 9, 7, 8});
       }},
      {"no tensor tells head_dim",
       [](Recording& r) {
         for (const char* name : {"keys", "values", "queries"}) r.tensors.erase(name);
         r.Add("positions", {1}, {3});
       }},
      {"no tensor tells layers", [](Recording& r) { r.tensors.clear(); }},
      {"'scores' is I32",
       [](Recording& r) {
         r.Add("scores", {2, 2, kTokens}, std::vector<int32_t>(400));
       }},
      {"'scores' has n = 50",
       [](Recording& r) {
         r.Add("scores", DType::kF32, {2, 2, 50}, reference::Row(200));
       }},
      {"'projected_norms' is F16",
       [](Recording& r) {
         r.Add("projected_norms", DType::kF16, {2, 2, kTokens}, reference::Row(400));
       }},
      {"'query_mean' has query_heads = 3",
       [](Recording& r) {
         r.Add("query_mean", DType::kF32, {2, 3, kDim}, reference::Row(2 * 3 * kDim));
       }},
      {"'query_cov' has 3 dimensions",
       [](Recording& r) {
         r.Add("query_cov", DType::kF32, {2, 4, kDim}, reference::Row(2 * 4 * kDim));
       }},
      {"'query_cov' has head_dim = 8",
       [](Recording& r) {
         r.Add("query_cov", DType::kF32, {2, 4, 8, 8}, reference::Row(2 * 4 * 64));
       }},
      {"'classes' is I32", [](Recording& r) { r.Add("classes", {kTokens}, std::vector<int32_t>(kTokens)); }},
      {"'classes' has 99 entries", [](Recording& r) { r.AddClasses({99}, std::vector<int>(99)); }},
      {"above 2^30",
       [](Recording& r) {
         r.tensors.erase("keys");
         r.tensors.erase("values");
         r.tensors.erase("queries");
         r.Add("queries", DType::kF32, {40'000, 1, 1, 1}, std::vector<double>(40'000));
         r.Add("lengths", {40'000, 1}, std::vector<int32_t>(40'000));
         r.Add("positions", {40'000}, std::vector<int32_t>(40'000));
       }},
  };
  for (const auto& c : cases) {
    Recording recording = FullRecording();
    c.spoil(recording);
    const absl::Status status = recording.Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), ::testing::StartsWith(TempPath("recording") + ": ")) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
  EXPECT_EQ(LoadReplay("/nonexistent").status().code(), absl::StatusCode::kNotFound);
}

TEST(Replay, RefusesBadNumbersPoliciesAndBudgets) {
  Recording recording = FullRecording();
  const absl::StatusOr<ReplayInput> good = recording.Load();
  Policy policy = *Preset("ahakv-ada");
  EXPECT_FALSE(ReplayInProcess(*good, policy, {Budget::Kind::kTokens, 0}, 1).ok());
  EXPECT_FALSE(ReplayInProcess(*good, policy, {Budget::Kind::kTokens, 35}, 1).ok());  // 36 are protected
  EXPECT_TRUE(ReplayInProcess(*good, policy, {Budget::Kind::kTokens, 36}, 1).ok());
  policy.window = -1;
  EXPECT_FALSE(ReplayInProcess(*good, policy, {Budget::Kind::kTokens, 50}, 1).ok());

  engine::PlainSequence plain = RandomSequence(1, DType::kF32, {100, 100, 100, 100});
  plain.contents.units[2].values[17 * kDim + 3] = INFINITY;
  const absl::StatusOr<ReplayInput> bad = Record(plain).Load();
  const absl::Status status = ReplayInProcess(*bad, *Preset("ahakv-ada"), {Budget::Kind::kTokens, 50}, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("values: layer 1, kv head 0, index 17"));
}

}  // namespace
}  // namespace kvsteward::replay
