// The whole daemon but gRPC and sockets: core, memory, the device with the host engine, and the loop between them.
#include "service/steward/steward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

#include "tests/memory/process.h"
#include "tests/steward/steward_fixture.h"

namespace kvsteward::steward {
namespace {

TEST_F(StewardTest, ALeaseGoesLiveWhenItsSelfTestPasses) {
  Worker worker(steward_, port_, 1, "a");
  worker.Attach();
  EXPECT_EQ(worker.attached().extent_bytes, 1u << 16);
  const Answer early = Ask(steward_, core::ReserveAsked{.call = 0, .lease = worker.ref(), .items = {}});
  EXPECT_EQ(early.outcome.code, core::Code::kFailedPrecondition);
  worker.WriteSelfTest();
  worker.Hold();
  EXPECT_TRUE(worker.HoldSays().outcome.ok());
  EXPECT_EQ(Status().leases.at(0).state, core::LeaseState::kLive);
}

TEST_F(StewardTest, AWrongSelfTestClosesTheConnection) {
  Worker worker(steward_, port_, 1, "a");
  worker.Attach();
  worker.WriteSelfTest();
  worker.statistics()[KVS_SELF_TEST_OFFSET + 15] ^= std::byte{1};
  worker.Hold();
  EXPECT_EQ(worker.HoldSays().outcome.code, core::Code::kFailedPrecondition);
  Status();  // the loop is behind the closing
  EXPECT_NE(port_.ClosedBecause(1).find("self-test"), std::string::npos);
}

// As on a device: the first extent comes with the regions and shows the pattern, too.
TEST_F(StewardTest, TheSelfTestReadsAnExtentThatIsThereFromTheStart) {
  core::Config config = TestConfig();
  config.extent_at_attach = true;
  memory::Memory memory(memory::NewHostBackend(), memory::NewHostBackend(), kArenaBytes);
  device::Device device(engine::NewHostEngine(1));
  FakeSocketPort port;
  Steward steward(config, memory, device);
  steward.set_socket_port(&port);
  steward.Start();
  for (const bool written : {false, true}) {
    Worker worker(steward, port, written ? 2 : 1, "a");
    worker.Attach();
    worker.WriteSelfTest();
    ASSERT_NE(worker.blocks(), 0u);
    if (written) std::memcpy(worker.block(0), worker.statistics() + KVS_SELF_TEST_OFFSET, sizeof(core::Secret));
    worker.Hold();
    EXPECT_EQ(worker.HoldSays().outcome.code, written ? core::Code::kOk : core::Code::kFailedPrecondition);
  }
  steward.Stop();
}

TEST_F(StewardTest, EvictionsKeepExactlyThePlannedTokensAndReturnTheOtherBlocks) {
  Worker worker(steward_, port_, 1, "a");
  worker.GoLive();
  worker.Create(5);
  EXPECT_EQ(worker.Reserve(5, 200, 0).reserved_tokens, 200);
  WriteTokens(worker, 5, 0, 200);
  WriteQueries(worker);

  std::vector<std::vector<int32_t>> residents(Worker::kUnits, Range(0, 200));
  int32_t written = 200;
  for (const int64_t budget : {64, 48}) {
    const core::EvictResult result = worker.Evict(5, written, budget);
    EXPECT_EQ(result.budget_tokens, budget);
    EXPECT_EQ(result.units_compacted, Worker::kUnits);
    uint64_t freed = 0;
    uint64_t tokens = 0;
    int64_t kept_in_all = 0;
    PoisonFreeBlocks(worker, 5);
    for (uint32_t u = 0; u < Worker::kUnits; ++u) {
      const std::vector<int32_t> kept = KeptPositions(worker, result, u, residents[u]);
      ASSERT_EQ(static_cast<int32_t>(kept.size()), result.kept[u]);
      EXPECT_EQ(worker.row(5, u)->row_len, kept.size());
      EXPECT_EQ(worker.row(5, u)->base_tokens, static_cast<uint32_t>(written));
      EXPECT_EQ(worker.row(5, u)->blocks, BlocksFor(kept.size()));
      EXPECT_TRUE(Holds(worker, 5, u, kept)) << "unit " << u << ", budget " << budget;
      EXPECT_EQ(kept[0], 0);  // a sink
      EXPECT_EQ(kept.back(), written - 1);
      freed += BlocksFor(residents[u].size()) - BlocksFor(kept.size());
      tokens += residents[u].size() - kept.size();
      kept_in_all += static_cast<int64_t>(kept.size());
      residents[u] = kept;
    }
    EXPECT_EQ(kept_in_all, budget * Worker::kUnits);
    EXPECT_EQ(result.blocks_freed, freed);
    EXPECT_EQ(result.bytes_returned, freed * Worker::kGeometry.block_bytes());
    EXPECT_EQ(result.bytes_evicted, tokens * 2 * Worker::kGeometry.token_bytes());

    // Decode on: 37 more tokens behind the kept ones.
    EXPECT_EQ(worker.Reserve(5, written + 37, written).reserved_tokens, written + 37);
    WriteTokens(worker, 5, written, written + 37);
    written += 37;
    for (uint32_t u = 0; u < Worker::kUnits; ++u) {
      for (int32_t p = written - 37; p < written; ++p) residents[u].push_back(p);
      EXPECT_TRUE(Holds(worker, 5, u, residents[u]));
    }
  }
  // Another sequence takes the freed blocks and harms nothing.
  worker.Create(6);
  worker.Reserve(6, 100, 0);
  WriteTokens(worker, 6, 0, 100);
  for (uint32_t u = 0; u < Worker::kUnits; ++u) EXPECT_TRUE(Holds(worker, 5, u, residents[u]));
  worker.Release(6);
  worker.Release(5);
  EXPECT_EQ(Status().ledger.used, 0u);
}

TEST_F(StewardTest, ImportedResidentsKeepTheirPositionsThroughEvictions) {
  Worker worker(steward_, port_, 1, "a");
  worker.GoLive();
  // Unit u holds every (u + 1)-th of 240 tokens.
  core::Residents imported{.seen = 240, .lengths = {}, .positions = nullptr};
  std::vector<std::vector<int32_t>> residents(Worker::kUnits);
  std::vector<int32_t> positions;
  for (uint32_t u = 0; u < Worker::kUnits; ++u) {
    for (int32_t p = 0; p < 240; p += static_cast<int32_t>(u + 1)) residents[u].push_back(p);
    imported.lengths.push_back(static_cast<int32_t>(residents[u].size()));
    positions.insert(positions.end(), residents[u].begin(), residents[u].end());
  }
  imported.positions = std::make_shared<std::vector<int32_t>>(positions);
  worker.Create(5, imported);
  for (uint32_t u = 0; u < Worker::kUnits; ++u) {
    ASSERT_EQ(worker.row(5, u)->row_len, residents[u].size());
    for (uint32_t j = 0; j < residents[u].size(); ++j) {
      for (uint32_t e = 0; e < 16; ++e) {
        worker.token(5, u, j)[e] = KeyAt(5, u, residents[u][j], e);
        worker.token(5, u, j)[256 + e] = KeyAt(5, u, residents[u][j], e) + 0.5f;
      }
    }
  }
  WriteQueries(worker);
  core::EvictAsked asked = worker.EvictAsked(5, 240, 40);
  auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
  spec->budget.amount = 70;
  asked.items[0].spec = spec;
  auto policy = std::make_shared<engine::Policy>(*engine::Preset("ahakv-ada"));
  policy->protect.sinks = 100;  // by position: unit u protects 100 / (u + 1) residents
  policy->protect.recent = 4;
  asked.items[0].policy = policy;
  const auto reply = MustAsk<core::EvictReply>(steward_, asked);
  const core::EvictResult& result = reply.results.at(0);
  ASSERT_TRUE(result.outcome.ok()) << result.outcome.message;
  for (uint32_t u = 0; u < Worker::kUnits; ++u) {
    const std::vector<int32_t> kept = KeptPositions(worker, result, u, residents[u]);
    EXPECT_TRUE(Holds(worker, 5, u, kept));
    for (const int32_t p : residents[u]) {
      EXPECT_TRUE(p >= 100 || std::binary_search(kept.begin(), kept.end(), p)) << p;
    }
  }
}

TEST_F(StewardTest, ManySequencesOfTwoTenantsAreEvictedInOneCallEach) {
  Worker first(steward_, port_, 1, "a");
  Worker second(steward_, port_, 2, "b");
  for (Worker* worker : {&first, &second}) {
    worker->GoLive();
    WriteQueries(*worker);
    for (core::SequenceId sequence = 1; sequence <= 4; ++sequence) {
      worker->Create(sequence);
      worker->Reserve(sequence, 160, 0);
      WriteTokens(*worker, sequence, 0, 160);
    }
  }
  Inbox<Answer> inbox;
  for (Worker* worker : {&first, &second}) {
    core::EvictAsked asked = worker->EvictAsked(1, 160, 50);
    for (core::SequenceId sequence = 2; sequence <= 4; ++sequence) {
      asked.items.push_back(asked.items[0]);
      asked.items.back().sequence = sequence;
    }
    asked.items.push_back(asked.items[0]);
    asked.items.back().sequence = 99;  // unknown: the others go on
    asked.call = steward_.NewCall([&](const core::Outcome& outcome, const core::ReplyBody& body) {
      inbox.Put({outcome, body});
    });
    steward_.Post(asked);
  }
  for (const Answer& answer : inbox.Wait(2)) {
    ASSERT_TRUE(answer.outcome.ok());
    const auto& results = std::get<core::EvictReply>(answer.body).results;
    ASSERT_EQ(results.size(), 5u);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_TRUE(results[i].outcome.ok()) << results[i].outcome.message;
      EXPECT_EQ(std::accumulate(results[i].kept.begin(), results[i].kept.end(), 0), 200);
    }
    EXPECT_EQ(results[4].outcome.code, core::Code::kNotFound);
  }
}

TEST_F(StewardTest, ADeadWorkersMemoryComesBackAndNotBefore) {
  const int descriptors = memory::OpenDescriptors();
  {
    Worker worker(steward_, port_, 1, "a");
    worker.GoLive();
    worker.Create(5);
    worker.Reserve(5, 200, 0);
    WriteTokens(worker, 5, 0, 200);
    steward_.Post(core::SocketClosed{.socket = 1});
    const core::StatusReply suspect = Status();
    EXPECT_GT(suspect.ledger.quarantined, 0u);
    EXPECT_EQ(suspect.ledger.free + suspect.ledger.quarantined, kArenaBytes);
    EXPECT_GT(memory::OpenDescriptors(), descriptors);
    EXPECT_TRUE(Holds(worker, 5, 0, Range(0, 200)));
    EXPECT_EQ(worker.HoldSays().outcome.code, core::Code::kUnavailable);
    steward_.Post(core::ProcessGone{.socket = 1});
    WaitUntilAllIsFree();
    EXPECT_EQ(memory_.Find(worker.attached().lease), nullptr);
    EXPECT_EQ(memory::OpenDescriptors(), descriptors);
    // What is still mapped here can be read, and is empty: it holds no memory of the arena.
    for (uint32_t j = 0; j < 200; ++j)
      EXPECT_EQ(*std::max_element(worker.token(5, 0, j), worker.token(5, 0, j) + 16), 0);
  }
  // The next lease finds zeroes (P1).
  Worker next(steward_, port_, 2, "b");
  next.GoLive();
  next.Create(1);
  next.Reserve(1, 200, 0);
  for (uint32_t b = 0; b < next.blocks(); ++b) {
    for (int i = 0; i < 512; ++i) ASSERT_EQ(next.block(b)[i], 0.0f);
  }
}

TEST_F(StewardTest, ADeathInTheMiddleOfAnEvictionGivesEverythingBack) {
  for (core::SocketId socket = 1; socket <= 20; ++socket) {
    Worker worker(steward_, port_, socket, "a");
    worker.GoLive();
    worker.Create(5);
    worker.Reserve(5, 500, 0);
    WriteTokens(worker, 5, 0, 500);
    WriteQueries(worker);
    core::EvictAsked asked = worker.EvictAsked(5, 500, 64);
    asked.call = steward_.NewCall([](const core::Outcome&, const core::ReplyBody&) {});
    steward_.Post(asked);
    if (socket % 2 == 0) steward_.CancelCall(asked.call);
    for (core::SocketId i = 0; i < socket; ++i) std::this_thread::yield();
    worker.Die();
    WaitUntilAllIsFree();
  }
}

TEST_F(StewardTest, ACancelledEvictionLeavesTheSequenceUsable) {
  Worker worker(steward_, port_, 1, "a");
  worker.GoLive();
  worker.Create(5);
  worker.Reserve(5, 500, 0);
  WriteTokens(worker, 5, 0, 500);
  WriteQueries(worker);
  core::EvictAsked asked = worker.EvictAsked(5, 500, 64);
  asked.call = steward_.NewCall([](const core::Outcome&, const core::ReplyBody&) { FAIL() << "it was cancelled"; });
  steward_.Post(asked);
  steward_.CancelCall(asked.call);
  // The sequence is busy until the device has let go of it.
  Answer answer;
  do {
    answer = Ask(steward_, worker.EvictAsked(5, 500, 64));
  } while (std::get<core::EvictReply>(answer.body).results.at(0).outcome.code == core::Code::kFailedPrecondition);
  const core::EvictResult& result = std::get<core::EvictReply>(answer.body).results[0];
  EXPECT_TRUE(result.outcome.ok()) << result.outcome.message;
  for (uint32_t u = 0; u < Worker::kUnits; ++u) EXPECT_LE(worker.row(5, u)->row_len, 500u);
  EXPECT_EQ(std::accumulate(result.kept.begin(), result.kept.end(), 0), 4 * 64);
}

TEST_F(StewardTest, QueriesThatAreWrittenToDuringAnEvictionDoNoHarm) {
  Worker worker(steward_, port_, 1, "a");
  worker.GoLive();
  worker.Create(5);
  worker.Reserve(5, 500, 0);
  WriteTokens(worker, 5, 0, 500);
  WriteQueries(worker);
  std::atomic<bool> stop = false;
  std::thread vandal([&] {
    std::mt19937 random(1);
    while (!stop) {
      const uint32_t bits = static_cast<uint32_t>(random());
      std::memcpy(worker.queries(1) + random() % (Worker::kSlotBytes / 4), &bits, sizeof(bits));
      std::memcpy(worker.block(random() % worker.blocks()) + random() % 512, &bits, sizeof(bits));
    }
  });
  for (int round = 0; round < 20; ++round) {
    const auto reply = MustAsk<core::EvictReply>(steward_, worker.EvictAsked(5, 500, 480 - 10 * round));
    const core::Code code = reply.results.at(0).outcome.code;
    EXPECT_TRUE(code == core::Code::kOk || code == core::Code::kInvalidArgument) << reply.results[0].outcome.message;
  }
  stop = true;
  vandal.join();
}

TEST_F(StewardTest, ADrainEndsWithTheLastCall) {
  Worker worker(steward_, port_, 1, "a");
  worker.GoLive();
  steward_.Post(core::DrainAsked{});
  drained_.Wait();
  EXPECT_TRUE(worker.HoldSays().outcome.ok());  // the notice
  EXPECT_TRUE(Status().draining);
}

TEST_F(StewardTest, StoppingAnswersWhoWaits) {
  Worker worker(steward_, port_, 1, "a");
  worker.GoLive();
  steward_.Stop();
  EXPECT_EQ(worker.HoldSays().outcome.code, core::Code::kUnavailable);
  steward_.Stop();
}

}  // namespace
}  // namespace kvsteward::steward
