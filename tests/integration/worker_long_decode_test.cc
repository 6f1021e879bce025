// A worker that generates for long: every eviction is due, none comes too early, and no unit ever holds more than its
// budget, a block and the token of the step.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/run.h"
#include "client/worker/host_attention.h"
#include "client/worker/model.h"
#include "client/worker/session.h"
#include "client/worker/task.h"
#include "tests/client/daemon.h"

namespace kvsteward::worker {
namespace {

constexpr uint32_t kGenerated = 4096;
constexpr uint32_t kTenthPpm = 100'000;

class WorkerLongDecodeTest : public ::testing::TestWithParam<std::string> {
 protected:
  WorkerLongDecodeTest() : model_(LoadModel(KVSTEWARD_MODEL).value()) {
    model_.config.max_positions = 8192;  // what it says there does not matter here
  }

  testing::Daemon daemon_;
  Model model_;
};

TEST_P(WorkerLongDecodeTest, StaysWithinABlockOfTheBudget) {
  HostAttention attention(model_.config);
  Decoder decoder(model_, attention);
  ClientOptions options;
  options.address = daemon_.address();
  options.fd_socket = daemon_.fd_socket("red");
  options.geometry = GeometryOf(model_.config);
  options.window_rows = kWindowRows;
  const std::unique_ptr<Client> client = Client::Attach(options).value();
  const std::vector<uint32_t> prompt =
      MakePrompt(ParseTask(model_.task, model_.config.vocab).value(), PromptKind::kAware, 7).tokens;
  const auto tokens = static_cast<uint32_t>(prompt.size());
  const auto session = Session::Start(*client, decoder, {1, tokens + kGenerated, 0}).value();
  ASSERT_TRUE(session->Prefill(prompt).ok());
  const auto first = session->Evict(GetParam(), kTenthPpm, false);
  ASSERT_TRUE(first.ok()) << first.status();

  const uint32_t units = model_.config.units();
  std::vector<uint32_t> kept = first->kept;  // of each unit by the last eviction
  uint32_t evictions = 0;
  uint32_t token = prompt.back();
  for (uint32_t i = 1; i <= kGenerated; ++i) {
    const auto logits = session->Feed({&token, 1});
    ASSERT_TRUE(logits.ok()) << logits.status();
    token = static_cast<uint32_t>(std::max_element(logits->begin(), logits->end()) - logits->begin());
    for (uint32_t unit = 0; unit < units; ++unit) {
      ASSERT_LE(session->cache().Residents(unit), kept[unit] + kBlockTokens) << "unit " << unit << ", token " << i;
      ASSERT_EQ(session->cache().sequence().Row(unit).size() * kBlockTokens,
                BlocksFor(session->cache().sequence().reserved() - session->cache().sequence().written() +
                          session->cache().Residents(unit)) *
                    kBlockTokens);
    }
    const auto due = session->EvictIfDue();
    ASSERT_TRUE(due.ok()) << due.status();
    ASSERT_EQ(*due, i % kBlockTokens == 0) << i;
    if (!*due) continue;
    ++evictions;
    uint64_t total = 0;
    for (uint32_t unit = 0; unit < units; ++unit) total += kept[unit] = session->cache().Residents(unit);
    ASSERT_EQ(total, uint64_t{units} * first->budget_tokens);
  }
  EXPECT_EQ(evictions, kGenerated / kBlockTokens);
}

INSTANTIATE_TEST_SUITE_P(Policies, WorkerLongDecodeTest,
                         ::testing::Values("ahakv-ada", "ada-pyramidkv", "tova", "h2o", "layer-defensivekv"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace kvsteward::worker
