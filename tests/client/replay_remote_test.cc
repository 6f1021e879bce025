// A replay through a sidecar decides what the same replay in process decides, bit for bit.
#include "app/replay_remote/replay_remote.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "app/replay/replay.h"
#include "gtest/gtest.h"
#include "tests/client/daemon.h"

namespace kvsteward::replay {
namespace {

using engine::DType;

// Random numbers of any type; half-precision ones by their bits: exponents around 0.
std::vector<std::byte> Numbers(std::mt19937& random, DType dtype, size_t count) {
  std::vector<std::byte> bytes(count * engine::SizeOf(dtype));
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < count; ++i) {
    if (dtype == DType::kF32) {
      const float number = normal(random);
      std::memcpy(&bytes[i * 4], &number, 4);
      continue;
    }
    const auto sign = static_cast<uint16_t>((random() & 1) << 15);
    const uint16_t bits = dtype == DType::kF16 ? static_cast<uint16_t>(sign | (0x3000 + random() % 0x1000))
                                               : static_cast<uint16_t>(sign | (0x3e80 + random() % 0x100));
    std::memcpy(&bytes[i * 2], &bits, 2);
  }
  return bytes;
}

// A recorded sequence: units of different lengths with gaps between their positions.
struct Recording {
  Recording(DType dtype, DType query_dtype, bool gaps) {
    std::mt19937 random(7);
    input.geometry = {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 24, .dtype = dtype};
    input.tokens = 333;
    input.rows = 40;
    input.query_dtype = query_dtype;
    const auto units = static_cast<size_t>(input.geometry.units());
    const auto tokens = static_cast<size_t>(input.tokens);
    keys = Numbers(random, dtype, units * tokens * 24);
    values = Numbers(random, dtype, units * tokens * 24);
    queries = Numbers(random, query_dtype, 3 * 4 * 40 * 24);
    input.keys = keys;
    input.values = values;
    input.queries = queries;
    for (size_t u = 0; u < units; ++u) {
      input.lengths.push_back(gaps ? static_cast<int32_t>(tokens - u * 37) : input.tokens);
      int32_t position = 0;
      for (size_t j = 0; j < tokens && (gaps || u == 0); ++j) {
        input.positions.push_back(position);
        position += gaps ? 1 + static_cast<int32_t>(random() % 3) : 1;
      }
    }
    input.seen = gaps ? 1200 : 333;
    for (int32_t row = 0; row < input.rows; ++row) {
      input.query_positions.push_back(static_cast<int32_t>(input.seen) - input.rows + row);
    }
    size_t residents = 0;
    for (const int32_t length : input.lengths) residents += static_cast<size_t>(length);
    std::uniform_real_distribution<float> uniform;
    const auto fill = [&](std::vector<float>& numbers, size_t count, float scale) {
      for (size_t i = 0; i < count; ++i) numbers.push_back(scale * uniform(random));
    };
    fill(input.scores, residents, 1);
    fill(input.projected_norms, residents, 5);
    fill(mean, 3 * 4 * 24, 1);
    fill(covariance, 3 * 4 * 24 * 24, 0.1f);
    for (int64_t position = 0; position < input.seen; ++position) classes.push_back(random() % 3 == 0 ? 1 : 0);
    input.query_mean = mean;
    input.query_covariance = covariance;
    input.classes = classes;
  }
  ReplayInput input;
  std::vector<std::byte> keys, values, queries;
  std::vector<float> mean, covariance;
  std::vector<uint8_t> classes;
};

class ReplayRemote : public ::testing::Test {
 protected:
  void ExpectSame(const ReplayInput& input, const std::string& preset, const std::string& budget_text) {
    ExpectSame(input, *engine::Preset(preset), budget_text);
  }
  void ExpectSame(const ReplayInput& input, const engine::Policy& policy, const std::string& budget_text) {
    SCOPED_TRACE(policy.name + " " + budget_text);
    const engine::Budget budget = *engine::ParseBudget(budget_text);
    const auto here = ReplayInProcess(input, policy, budget, 2);
    const auto there = ReplayInSidecar(input, policy, budget, sidecar_);
    ASSERT_TRUE(here.ok()) << here.status();
    ASSERT_TRUE(there.ok()) << there.status();
    EXPECT_EQ(there->keep, here->keep);
    EXPECT_EQ(there->head_budgets, here->head_budgets);
    EXPECT_EQ(there->layer_budgets, here->layer_budgets);
    EXPECT_EQ(there->backend, here->backend);
    EXPECT_EQ(there->unsplit_layers, here->unsplit_layers);
    ASSERT_EQ(there->scores.size(), here->scores.size());
    EXPECT_EQ(std::memcmp(there->scores.data(), here->scores.data(), here->scores.size() * sizeof(float)), 0);
  }

  testing::Daemon daemon_;
  const RemoteSidecar sidecar_{daemon_.address(), daemon_.fd_socket("red")};
};

TEST_F(ReplayRemote, AgreesForEveryPreset) {
  const Recording ragged(DType::kBF16, DType::kBF16, true);
  const Recording equal(DType::kBF16, DType::kBF16, false);
  for (const std::string& preset : engine::PresetNames()) {
    const bool over_layer = engine::Preset(preset)->group.span == engine::Group::Span::kLayer;
    ExpectSame(over_layer ? equal.input : ragged.input, preset, "80");
  }
}

TEST_F(ReplayRemote, AgreesForEveryInput) {
  const Recording recording(DType::kF32, DType::kBF16, true);
  for (const char* text : {"{name: s, signal: submitted, protect: {recent: 3, classes: [1]}}",
                           "{name: c, signal: softmax1, protect: {classes: [1]}, select: {two_lists: {share: 0.3}}}",
                           "{name: w, signal: softmax, head: {split: {full_heads: 1}}}"}) {
    const absl::StatusOr<engine::Policy> policy = engine::PolicyFromYaml(text);
    ASSERT_TRUE(policy.ok()) << policy.status();
    ExpectSame(recording.input, *policy, "150");
  }
}

TEST_F(ReplayRemote, AgreesForEveryType) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const DType query_dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      ExpectSame(Recording(dtype, query_dtype, false).input, "ahakv-ada", "20%");
    }
  }
}

TEST_F(ReplayRemote, AgreesForEveryBudget) {
  const Recording recording(DType::kF16, DType::kF32, true);
  for (const std::string budget : {"60", "7.5%", "100%", "100000", "64KiB", "1GiB"}) {
    ExpectSame(recording.input, "ahakv", budget);
  }
}

TEST_F(ReplayRemote, NeedsOnlyWhatThePolicyReads) {
  Recording recording(DType::kF32, DType::kF32, false);
  recording.input.queries = {};
  recording.input.values = {};
  ExpectSame(recording.input, "streaming-llm", "50");
  EXPECT_EQ(ReplayInSidecar(recording.input, *engine::Preset("ahakv"), {engine::Budget::Kind::kTokens, 50}, sidecar_)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ReplayRemote, LeavesNothingBehind) {
  const Recording recording(DType::kF32, DType::kF32, false);
  ExpectSame(recording.input, "snapkv", "50");
  const v1::GetStatusResponse status =
      daemon_.Await([](const v1::GetStatusResponse& s) { return s.leases_size() == 0; });
  EXPECT_EQ(status.ledger().free_bytes(), status.ledger().arena_bytes());
}

TEST_F(ReplayRemote, NobodyIsThere) {
  const Recording recording(DType::kF32, DType::kF32, false);
  EXPECT_EQ(ReplayInSidecar(recording.input, *engine::Preset("ahakv"), {engine::Budget::Kind::kTokens, 50},
                            {daemon_.address(), daemon_.fd_socket("green")})
                .status()
                .code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvsteward::replay
