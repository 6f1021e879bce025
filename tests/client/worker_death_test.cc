// Workers that are killed: their memory comes back, all of it, and the books stay exact (P5, P8).
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "kvsteward/client.h"
#include "tests/client/daemon.h"
#include "tests/client/tokens.h"

namespace kvsteward {
namespace {

using testing::Daemon;
using testing::Tokens;

// Of the doomed worker's geometry: 32 units of 256 bytes for K and V each.
constexpr uint64_t kTokenBytes = 32 * 2 * 64 * 4;
constexpr uint64_t kQuota = 128u << 20;
constexpr uint64_t kHeldTokens = kQuota / 2 / kTokenBytes;
// What P5 promises from a worker's death until its memory is back.
constexpr std::chrono::seconds kPromised{2};

uint64_t RunningEvictions(const v1::GetStatusResponse& status) {
  uint64_t running = 0;
  for (const v1::LeaseStatus& lease : status.leases()) running += lease.running_evictions();
  return running;
}

// What the daemon says while an eviction runs; the last word if none does in half a minute. Asks
// without a pause, for an eviction takes a few milliseconds.
v1::GetStatusResponse WithinAnEviction(const Daemon& daemon) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  v1::GetStatusResponse status = daemon.Status();
  while (RunningEvictions(status) == 0 && std::chrono::steady_clock::now() < deadline) status = daemon.Status();
  return status;
}

// The next byte that the worker says, 0 if none comes.
char Hear(int fd) {
  pollfd event{fd, POLLIN, 0};
  char said = 0;
  if (poll(&event, 1, 60'000) != 1 || read(fd, &said, 1) != 1) return 0;
  return said;
}

TEST(WorkerDeath, GivesEverythingBack) {
  Daemon daemon;
  // A bystander of the same daemon, whom nothing of this may touch.
  ClientOptions options;
  options.address = daemon.address();
  options.fd_socket = daemon.fd_socket("blue");
  options.geometry = {.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 16, .dtype = ElementType::kF32};
  auto bystander = Client::Attach(options);
  ASSERT_TRUE(bystander.ok()) << bystander.status();
  auto sequence = (*bystander)->CreateSequence(1, 1000);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  ASSERT_TRUE(sequence->Reserve(1000).ok());
  Tokens tokens(*sequence, options.geometry, 3);
  tokens.WriteUpTo(1000);
  const v1::Ledger before = daemon.Status().ledger();
  const size_t objects = daemon.MemoryObjects();

  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE(round);
    int pipe_fds[2];
    ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    const UniqueFd hear(pipe_fds[0]);
    UniqueFd say(pipe_fds[1]);
    const pid_t worker = testing::Spawn(
        {DOOMED_WORKER_BINARY, daemon.address(), daemon.fd_socket("red"), std::to_string(kHeldTokens)}, say.get());
    say.reset();
    ASSERT_EQ(Hear(hear.get()), 'h');
    for (int i = 0; i <= round % 3; ++i) ASSERT_EQ(Hear(hear.get()), 'e');
    // Somewhere within an eviction, later from round to round.
    std::this_thread::sleep_for(std::chrono::microseconds(700 * round));
    const v1::GetStatusResponse alive = WithinAnEviction(daemon);
    ASSERT_EQ(RunningEvictions(alive), 1u);
    ASSERT_EQ(alive.leases_size(), 2);
    EXPECT_GE(alive.ledger().used_bytes() - before.used_bytes(), kQuota / 2);
    EXPECT_TRUE(testing::Exact(alive.ledger()));
    ASSERT_EQ(kill(worker, SIGKILL), 0);
    const auto death = std::chrono::steady_clock::now();
    EXPECT_TRUE(WIFSIGNALED(testing::Wait(worker)));
    const v1::GetStatusResponse after = daemon.Await([](const v1::GetStatusResponse& s) {
      EXPECT_TRUE(testing::Exact(s.ledger()));
      return s.leases_size() == 1;
    });
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - death);
    std::printf("round %d: the memory was back after %lld ms\n", round, static_cast<long long>(took.count()));
    EXPECT_EQ(after.leases_size(), 1);
    EXPECT_LT(took, kPromised);
    EXPECT_EQ(after.ledger().SerializeAsString(), before.SerializeAsString());
    EXPECT_EQ(daemon.MemoryObjects(), objects);
  }
  tokens.Check();
  EXPECT_TRUE(sequence->Truncate(999).ok());
}

}  // namespace
}  // namespace kvsteward
