// The reference decoder against the framework the model was trained in, over a plain cache in memory: the sidecar's
// part is tested elsewhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/safetensors.h"
#include "client/worker/decoder.h"
#include "client/worker/model.h"
#include "tests/integration/attention_under_test.h"
#include "tests/integration/plain_cache.h"

namespace kvsteward::worker {
namespace {

// What sums in another order may differ by; logits are between -20 and 20.
constexpr float kTolerance = 1e-4F;

struct Golden {
  std::vector<uint32_t> tokens;
  std::vector<float> logits;  // [tokens, vocab]
};

Golden ReadGolden() {
  const auto file = safetensors::File::Open(KVSTEWARD_GOLDEN);
  EXPECT_TRUE(file.ok()) << file.status();
  Golden golden;
  const std::span<const std::byte> tokens = file->Find("tokens")->bytes;
  for (size_t i = 0; i < tokens.size() / sizeof(int64_t); ++i) {
    golden.tokens.push_back(static_cast<uint32_t>(reinterpret_cast<const int64_t*>(tokens.data())[i]));
  }
  const std::span<const std::byte> logits = file->Find("logits")->bytes;
  const auto* first = reinterpret_cast<const float*>(logits.data());
  golden.logits.assign(first, first + logits.size() / sizeof(float));
  return golden;
}

class WorkerDecoderTest : public testing::Test {
 protected:
  WorkerDecoderTest()
      : model_(LoadModel(KVSTEWARD_MODEL).value()),
        golden_(ReadGolden()),
        attention_(AttentionUnderTest(model_.config)),
        decoder_(model_, *attention_) {}

  PlainCache Cache() const { return PlainCache(model_.config, 256); }
  // Feeds the golden tokens in passes of `chunk` and compares the logits after each pass.
  void ExpectGolden(uint32_t chunk) {
    PlainCache cache = Cache();
    const auto total = static_cast<uint32_t>(golden_.tokens.size());
    for (uint32_t at = 0; at < total; at += chunk) {
      const uint32_t count = std::min(chunk, total - at);
      const auto logits = decoder_.Append(cache, std::span(golden_.tokens).subspan(at, count), at, nullptr);
      cache.Wrote(count);
      ASSERT_TRUE(logits.ok()) << logits.status();
      ExpectLogits(*logits, at + count - 1);
    }
  }
  void ExpectLogits(std::span<const float> logits, uint32_t at) const {
    const uint32_t vocab = model_.config.vocab;
    ASSERT_EQ(logits.size(), vocab);
    for (uint32_t i = 0; i < vocab; ++i) {
      ASSERT_NEAR(logits[i], golden_.logits[at * vocab + i], kTolerance) << "token " << at << ", logit " << i;
    }
  }

  Model model_;
  Golden golden_;
  std::unique_ptr<CacheAttention> attention_;
  Decoder decoder_;
};

TEST_F(WorkerDecoderTest, GivesTheGoldenLogitsTokenByToken) { ExpectGolden(1); }

TEST_F(WorkerDecoderTest, GivesTheGoldenLogitsInPassesOfAnySize) {
  for (const uint32_t chunk : {3u, 16u, 37u, 64u}) ExpectGolden(chunk);
}

TEST_F(WorkerDecoderTest, NeverReadsSlotsThatNobodySees) {
  PlainCache cache = Cache();
  cache.Fill(NAN);
  const auto total = static_cast<uint32_t>(golden_.tokens.size());
  const auto logits = decoder_.Append(cache, golden_.tokens, 0, nullptr);
  ASSERT_TRUE(logits.ok()) << logits.status();
  ExpectLogits(*logits, total - 1);
}

TEST_F(WorkerDecoderTest, RefusesACacheWithoutRoom) {
  PlainCache cache(model_.config, 16);
  EXPECT_EQ(decoder_.Append(cache, std::span(golden_.tokens).first(17), 0, nullptr).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(decoder_.Append(cache, std::span(golden_.tokens).first(16), 0, nullptr).ok());
}

TEST_F(WorkerDecoderTest, DecodesTwoCachesInTurns) {
  PlainCache first = Cache();
  PlainCache second = Cache();
  for (uint32_t at = 0; at < golden_.tokens.size(); ++at) {
    for (PlainCache* cache : {&first, &second}) {
      const auto logits = decoder_.Append(*cache, {&golden_.tokens[at], 1}, at, nullptr);
      ASSERT_TRUE(logits.ok()) << logits.status();
      cache->Wrote(1);
      ExpectLogits(*logits, at);
    }
  }
}

TEST_F(WorkerDecoderTest, DecodesTheLastTokenAgainOverWhatIsResident) {
  PlainCache cache = Cache();
  const auto total = static_cast<uint32_t>(golden_.tokens.size());
  ASSERT_TRUE(decoder_.Append(cache, golden_.tokens, 0, nullptr).ok());
  cache.Wrote(total);
  ExpectLogits(decoder_.ReplaceLast(cache, golden_.tokens.back(), total - 1, nullptr).value(), total - 1);

  // With other residents it says something else, and what it wrote is in the last slot only.
  for (uint32_t unit = 0; unit < model_.config.units(); ++unit) cache.Drop(unit, 1 + unit, 9);
  const std::vector<float> before = cache.Contents(0);
  const auto logits = decoder_.ReplaceLast(cache, golden_.tokens.back(), total - 1, nullptr).value();
  float change = 0;
  for (uint32_t i = 0; i < logits.size(); ++i) {
    change = std::max(change, std::abs(logits[i] - golden_.logits[(total - 1) * logits.size() + i]));
  }
  EXPECT_GT(change, 10 * kTolerance);
  EXPECT_EQ(cache.Contents(0), before);  // layer 0 sees only the token itself
}

TEST_F(WorkerDecoderTest, FillsTheWindowWithTheNewestQueriesInOrder) {
  const ModelConfig& config = model_.config;
  constexpr uint32_t kRows = 8;
  const size_t floats = static_cast<size_t>(config.layers) * config.query_width() * kRows;
  std::vector<float> whole(floats);
  std::vector<float> stepped(floats);
  QueryWindow at_once(config, kRows, whole.data());
  QueryWindow step_by_step(config, kRows, stepped.data());

  PlainCache first = Cache();
  ASSERT_TRUE(decoder_.Append(first, golden_.tokens, 0, &at_once).ok());
  PlainCache second = Cache();
  for (uint32_t at = 0; at < golden_.tokens.size(); ++at) {
    ASSERT_TRUE(decoder_.Append(second, {&golden_.tokens[at], 1}, at, &step_by_step).ok());
    second.Wrote(1);
  }
  for (size_t i = 0; i < floats; ++i) ASSERT_NEAR(whole[i], stepped[i], kTolerance) << i;

  // The last token's queries, decoded again over the same residents, are the same.
  const auto last = static_cast<uint32_t>(golden_.tokens.size()) - 1;
  ASSERT_TRUE(decoder_.ReplaceLast(second, golden_.tokens.back(), last, &step_by_step).ok());
  for (size_t i = 0; i < floats; ++i) ASSERT_NEAR(whole[i], stepped[i], kTolerance) << i;
}

}  // namespace
}  // namespace kvsteward::worker
