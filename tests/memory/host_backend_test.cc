// The host's backend under the contract, and what is particular to memfds.
#include "service/memory/host_backend.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/unique_fd.h"
#include "tests/memory/backend_contract.h"

namespace kvsteward::memory {
namespace {

std::byte* MapMemfd(int descriptor, size_t bytes, bool writable) {
  void* const data = mmap(nullptr, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, descriptor, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

INSTANTIATE_TEST_SUITE_P(Host, BackendContract, testing::Values(BackendUnderTest{"memfd", NewHostBackend, MapMemfd}));

TEST(HostBackend, TheSealsAreFinal) {
  const auto backend = NewHostBackend();
  EXPECT_EQ(backend->name(), "memfd");
  const auto extent = backend->Create(4096, Writers::kEveryone, nullptr);
  ASSERT_TRUE(extent.ok());
  EXPECT_EQ(fcntl((*extent)->descriptor(), F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW);
  // A worker that could seal writes would take the extent from the daemon.
  EXPECT_NE(fcntl((*extent)->descriptor(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

// A worker may give an extent's pages back under the daemon. It reads zeroes then; it does not die.
TEST(HostBackend, HolesPunchedByAWorkerReadAsZeroes) {
  const auto backend = NewHostBackend();
  const auto extent = backend->Create(1 << 20, Writers::kEveryone, nullptr);
  ASSERT_TRUE(extent.ok());
  (*extent)->bytes()[4096] = std::byte{1};
  ASSERT_TRUE(InAnotherProcess(
      [&] { return fallocate((*extent)->descriptor(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20) == 0; }));
  EXPECT_EQ((*extent)->bytes()[4096], std::byte{0});
  const auto table = backend->Create(1 << 20, Writers::kDaemon, nullptr);
  ASSERT_TRUE(table.ok());
  (*table)->bytes()[4096] = std::byte{1};
  EXPECT_TRUE(InAnotherProcess(
      [&] { return fallocate((*table)->descriptor(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20) != 0; }));
  EXPECT_EQ((*table)->bytes()[4096], std::byte{1});
}

TEST(HostBackend, AKeptDescriptorHoldsNoPagesOfAnObjectThatEnded) {
  const auto backend = NewHostBackend();
  auto extent = backend->Create(1 << 20, Writers::kEveryone, nullptr);
  ASSERT_TRUE(extent.ok());
  const UniqueFd kept(dup((*extent)->descriptor()));
  std::byte* const mapped = MapMemfd(kept.get(), 1 << 20, /*writable=*/true);
  ASSERT_NE(mapped, nullptr);
  std::fill_n(mapped, 1 << 20, std::byte{1});
  struct stat file {};
  ASSERT_EQ(fstat(kept.get(), &file), 0);
  EXPECT_EQ(file.st_blocks, (1 << 20) / 512);
  extent->reset();
  ASSERT_EQ(fstat(kept.get(), &file), 0);
  EXPECT_EQ(file.st_blocks, 0);
  EXPECT_EQ(file.st_size, 1 << 20);
  munmap(mapped, 1 << 20);
}

TEST(HostBackend, RunningOutOfDescriptorsIsResourceExhausted) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UBSan looks at objects through a pipe, and finds none where no descriptor is left";
#endif
  const auto backend = NewHostBackend();
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = backend->Create(4096, Writers::kEveryone, nullptr).status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace kvsteward::memory
