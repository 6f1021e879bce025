// Device memory from one process to another: the test is the sidecar, the worker is this program once more, told by its
// command line what to do. (A process that has opened the driver does not fork.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "client/cpp/lease_memory.h"
#include "tests/memory/cuda_device.h"

extern char** environ;

namespace kvsteward {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kExtentBytes = uint64_t{4} << 20;
constexpr uint64_t kBlockBytes = 4096;

LeaseLayout Layout(const std::string& uuid) {
  return {.block_bytes = kBlockBytes,
          .blocks_per_extent = kExtentBytes / kBlockBytes,
          .extent_bytes = kExtentBytes,
          .statistics_bytes = 8192,
          .plan_bytes = 0,
          .device_uuid = uuid};
}

std::vector<std::byte> Pattern(unsigned seed) {
  std::vector<std::byte> bytes(kExtentBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 2654435761u >> 13 ^ seed);
  return bytes;
}

std::vector<std::byte> Load(const DeviceContext& context, const std::byte* at) {
  std::vector<std::byte> bytes(kExtentBytes);
  EXPECT_TRUE(CopyFromDevice(context, at, bytes).ok());
  return bytes;
}

ReceivedObject ExtentOf(int descriptor, uint32_t index) {
  return {KVS_EXTENT, index, kExtentBytes, UniqueFd(dup(descriptor))};
}

// The worker: extents 1 and 0 are descriptors 11 and 10. Finds the sidecar's pattern in one, writes its own to the
// other, says so and lives until it is killed.
int Work(const std::string& uuid) {
  const auto memory = LeaseMemory::Reserve(Layout(uuid));
  if (!memory.ok()) return 2;
  if (!(*memory)->Map(ExtentOf(11, 1)).ok() || (*memory)->Block(0) != nullptr) return 3;
  if (!(*memory)->Map(ExtentOf(10, 0)).ok()) return 4;
  close(10);
  close(11);
  const uint32_t blocks = kExtentBytes / kBlockBytes;
  if ((*memory)->Block(blocks) != (*memory)->Block(0) + kExtentBytes || (*memory)->Block(2 * blocks) != nullptr)
    return 5;
  const auto context = DeviceContext::Open(uuid);
  if (!context.ok() || Load(**context, (*memory)->Block(blocks)) != Pattern(1)) return 6;
  const std::vector<std::byte> pattern = Pattern(2);
  if (!(*memory)->Write({(*memory)->Block(0), pattern}).ok()) return 7;
  if (write(STDOUT_FILENO, "!", 1) != 1) return 8;
  for (;;) pause();
}

class Worker {
 public:
  Worker(const std::string& uuid, int first, int second) {
    int out[2];
    EXPECT_EQ(pipe(out), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, first, 10);
    posix_spawn_file_actions_adddup2(&actions, second, 11);
    for (const int end : out) posix_spawn_file_actions_addclose(&actions, end);
    std::string name = "/proc/self/exe", work = "--work", device = uuid;
    char* arguments[] = {name.data(), work.data(), device.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, name.c_str(), &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    char said = 0;
    EXPECT_EQ(read(out[0], &said, 1), 1) << "the worker ended before it was done";
    close(out[0]);
  }
  ~Worker() {
    kill(pid_, SIGKILL);
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "it ended by itself, with status " << WEXITSTATUS(status);
  }

 private:
  pid_t pid_ = 0;
};

class CudaLeaseMemoryTest : public testing::Test {
 protected:
  memory::CudaDevice device_;
  const uint64_t before_ = device_.Free();
  const std::string uuid_ = device_.context()->uuid();
  std::unique_ptr<memory::CudaBackend> backend_ = device_.NewBackend();

  std::unique_ptr<memory::MemoryObject> NewExtent() {
    return *backend_->Create(kExtentBytes, memory::Writers::kEveryone, nullptr);
  }
};

TEST_F(CudaLeaseMemoryTest, BothProcessesSeeWhatTheOtherWrites) {
  auto first = NewExtent(), second = NewExtent();
  const std::vector<std::byte> pattern = Pattern(1);
  ASSERT_TRUE(CopyToDevice(*device_.context(), {{{second->bytes().data(), pattern}}}).ok());
  {
    const Worker worker(uuid_, first->descriptor(), second->descriptor());
    EXPECT_EQ(Load(*device_.context(), first->bytes().data()), Pattern(2));
    first.reset();
    second.reset();
    EXPECT_EQ(before_ - device_.Free(), 2 * kExtentBytes);  // the worker has them mapped
  }
  EXPECT_EQ(device_.Free(), before_);
}

TEST_F(CudaLeaseMemoryTest, ItsEndUnmapsEverything) {
  auto extent = NewExtent();
  {
    const auto memory = LeaseMemory::Reserve(Layout(uuid_));
    ASSERT_TRUE(memory.ok()) << memory.status();
    ASSERT_TRUE((*memory)->Map(ExtentOf(extent->descriptor(), 0)).ok());
    const absl::Status twice = (*memory)->Map(ExtentOf(extent->descriptor(), 0));
    EXPECT_THAT(std::string(twice.message()), HasSubstr("came twice"));
    extent.reset();
    EXPECT_EQ(before_ - device_.Free(), kExtentBytes);
  }
  EXPECT_EQ(device_.Free(), before_);
}

TEST_F(CudaLeaseMemoryTest, WhatIsNoDeviceMemoryOrNoDeviceIsRefused) {
  const auto memory = LeaseMemory::Reserve(Layout(uuid_));
  ASSERT_TRUE(memory.ok()) << memory.status();
  const UniqueFd file(memfd_create("file", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), kExtentBytes), 0);
  const absl::Status status = (*memory)->Map(ExtentOf(file.get(), 0));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the sidecar's extent 0 is no memory of device " + uuid_));
  EXPECT_EQ((*memory)->Block(0), nullptr);
  const auto extent = NewExtent();
  EXPECT_TRUE((*memory)->Map(ExtentOf(extent->descriptor(), 0)).ok());  // a refusal leaves its place free

  EXPECT_EQ(LeaseMemory::Reserve(Layout("GPU-01234567-89ab-cdef-0123-456789abcdef")).status().code(),
            absl::StatusCode::kNotFound);
  LeaseLayout odd = Layout(uuid_);
  odd.blocks_per_extent += 1;
  odd.extent_bytes += kBlockBytes;
  EXPECT_EQ(LeaseMemory::Reserve(odd).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace kvsteward

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--work") == 0) return kvsteward::Work(argv[2]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
