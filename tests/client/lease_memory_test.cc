// Mapping what a sidecar sends, honest or not.
#include "client/cpp/lease_memory.h"

#include <sys/wait.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/objects.h"

namespace kvsteward {
namespace {

using testing::AtOnce;
using ::testing::HasSubstr;
using testing::MakeFile;
using testing::MakeObject;
using testing::Soon;

constexpr LeaseLayout kLayout{
    .block_bytes = 512, .blocks_per_extent = 16, .extent_bytes = 8192, .statistics_bytes = 8192, .plan_bytes = 4096};

std::unique_ptr<LeaseMemory> Reserved(const LeaseLayout& layout = kLayout) {
  auto memory = LeaseMemory::Reserve(layout);
  EXPECT_TRUE(memory.ok()) << memory.status();
  return *std::move(memory);
}

// The file behind an object, to look at what the worker's mapping shows.
std::byte* Look(const ReceivedObject& object) {
  void* data = mmap(nullptr, object.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, object.fd.get(), 0);
  EXPECT_NE(data, MAP_FAILED);
  return static_cast<std::byte*>(data);
}

void ExpectRefused(LeaseMemory& memory, ReceivedObject object, const std::string& why) {
  const absl::Status status = memory.Map(std::move(object));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(LeaseMemory, BlocksLieOneBehindTheOther) {
  auto memory = Reserved();
  ReceivedObject first = MakeObject(KVS_EXTENT, 0, 8192), second = MakeObject(KVS_EXTENT, 1, 8192);
  std::byte* const in_second = Look(second);
  EXPECT_EQ(memory->Block(0), nullptr);
  ASSERT_TRUE(memory->Map(std::move(first)).ok());
  ASSERT_NE(memory->Block(15), nullptr);
  EXPECT_EQ(memory->Block(16), nullptr);
  ASSERT_TRUE(memory->Map(std::move(second)).ok());
  EXPECT_EQ(memory->Block(31) - memory->Block(0), 31 * 512);
  EXPECT_EQ(memory->Block(32), nullptr);
  EXPECT_EQ(memory->Block(~0u), nullptr);
  *memory->Block(17) = std::byte{42};
  EXPECT_EQ(in_second[512], std::byte{42});
  munmap(in_second, 8192);
}

TEST(LeaseMemory, TakesObjectsInAnyOrder) {
  auto memory = Reserved();
  ASSERT_TRUE(memory->Map(MakeObject(KVS_EXTENT, 2, 8192)).ok());
  ASSERT_TRUE(memory->Map(MakeObject(KVS_EXTENT, 1, 8192)).ok());
  EXPECT_EQ(memory->Block(16), nullptr);  // not before extent 0 is here
  ASSERT_TRUE(memory->Map(MakeObject(KVS_EXTENT, 0, 8192)).ok());
  EXPECT_NE(memory->Block(47), nullptr);
  EXPECT_EQ(memory->Block(48), nullptr);
  ASSERT_TRUE(memory->Map(MakeObject(KVS_TABLES, 1, 4096)).ok());
  ASSERT_TRUE(memory->Map(MakeObject(KVS_PLANS, 0, 4096)).ok());
  ASSERT_TRUE(memory->Map(MakeObject(KVS_STATISTICS, 0, 8192)).ok());
  EXPECT_TRUE(memory->Await(3, 0, AtOnce()).ok());
  EXPECT_EQ(memory->Await(3, 2, AtOnce()).code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(memory->Map(MakeObject(KVS_TABLES, 0, 4096)).ok());
  EXPECT_TRUE(memory->Await(3, 2, AtOnce()).ok());
  EXPECT_EQ(memory->TableChunk(1).size(), 4096u);
  EXPECT_EQ(memory->Await(~0u, 0, AtOnce()).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(LeaseMemory, AwaitWakesUp) {
  auto memory = Reserved();
  std::thread sidecar([&] {
    EXPECT_TRUE(memory->Map(MakeObject(KVS_STATISTICS, 0, 8192)).ok());
    EXPECT_TRUE(memory->Map(MakeObject(KVS_PLANS, 0, 4096)).ok());
    EXPECT_TRUE(memory->Map(MakeObject(KVS_EXTENT, 0, 8192)).ok());
  });
  EXPECT_TRUE(memory->Await(1, 0, Soon()).ok());
  sidecar.join();
  std::thread end([&] { memory->Close(absl::UnavailableError("gone")); });
  EXPECT_EQ(memory->Await(2, 0, Soon()).message(), "gone");
  end.join();
  EXPECT_TRUE(memory->Await(1, 0, AtOnce()).ok());  // what is mapped stays usable
}

TEST(LeaseMemory, RegionsThatAreReadOnly) {
  auto memory = Reserved();
  ASSERT_TRUE(memory->Map(MakeObject(KVS_STATISTICS, 0, 8192)).ok());
  ASSERT_TRUE(memory->Map(MakeObject(KVS_PLANS, 0, 4096)).ok());
  ASSERT_TRUE(memory->Map(MakeObject(KVS_TABLES, 0, 4096)).ok());
  memory->statistics()[5000] = std::byte{1};
  EXPECT_DEATH(const_cast<std::byte&>(memory->plans()[100]) = std::byte{1}, "");
  EXPECT_DEATH(const_cast<std::byte&>(memory->TableChunk(0)[100]) = std::byte{1}, "");
}

TEST(LeaseMemory, AChildDoesNotInheritIt) {
  auto memory = Reserved();
  ASSERT_TRUE(memory->Map(MakeObject(KVS_EXTENT, 0, 8192)).ok());
  const pid_t child = fork();
  if (child == 0) {
    // mincore fails with ENOMEM where nothing is mapped.
    unsigned char resident = 0;
    _exit(mincore(memory->Block(0), 1, &resident) != 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(LeaseMemory, RefusesLayoutsThatContradictThemselves) {
  for (const LeaseLayout& layout :
       {LeaseLayout{}, LeaseLayout{512, 16, 8191, 8192, 0}, LeaseLayout{512, 8, 8192, 8192, 0},
        LeaseLayout{500, 3, 1500, 8192, 0}, LeaseLayout{uint64_t{1} << 63, 2, 0, 8192, 0},
        LeaseLayout{4096, uint64_t{1} << 60, 0, 8192, 0},
        LeaseLayout{4096, uint64_t{1} << 29, uint64_t{1} << 41, 0, 0}}) {
    EXPECT_EQ(LeaseMemory::Reserve(layout).status().code(), absl::StatusCode::kInternal) << layout.extent_bytes;
  }
}

TEST(LeaseMemory, RefusesFilesThatCouldFault) {
  auto memory = Reserved();
  ReceivedObject small = MakeObject(KVS_EXTENT, 0, 4096);
  small.bytes = 8192;  // reading the second page would be SIGBUS
  ExpectRefused(*memory, std::move(small), "announced with 8192 bytes but has 4096");
  ExpectRefused(*memory, ReceivedObject{KVS_EXTENT, 0, 8192, MakeFile(8192, 0)}, "not sealed against shrinking");
  ExpectRefused(*memory, ReceivedObject{KVS_EXTENT, 0, 8192, MakeFile(8192, F_SEAL_GROW)}, "not sealed");
  ExpectRefused(*memory, ReceivedObject{KVS_TABLES, 0, 0, MakeFile(0)}, "0 bytes");
  auto [pipe_like, other] = testing::MakeSocketPair();
  ExpectRefused(*memory, ReceivedObject{KVS_EXTENT, 0, 8192, std::move(pipe_like)}, "announced");
  EXPECT_EQ(memory->Block(0), nullptr);
}

TEST(LeaseMemory, RefusesWrongExtents) {
  auto memory = Reserved();
  constexpr auto kExtents = static_cast<uint32_t>(LeaseMemory::kAddressSpaceBytes / 8192);
  ExpectRefused(*memory, MakeObject(KVS_EXTENT, 0, 4096), "where Attach said 8192");
  ExpectRefused(*memory, MakeObject(KVS_EXTENT, kExtents, 8192), "beyond the address space");
  ExpectRefused(*memory, MakeObject(KVS_EXTENT, ~0u, 8192), "beyond the address space");
  ASSERT_TRUE(memory->Map(MakeObject(KVS_EXTENT, kExtents - 1, 8192)).ok());
  ASSERT_TRUE(memory->Map(MakeObject(KVS_EXTENT, 0, 8192)).ok());
  ExpectRefused(*memory, MakeObject(KVS_EXTENT, 0, 8192), "came twice");
}

TEST(LeaseMemory, RefusesWrongRegions) {
  auto memory = Reserved();
  ExpectRefused(*memory, MakeObject(KVS_STATISTICS, 0, 4096), "is not the one of 8192");
  ExpectRefused(*memory, MakeObject(KVS_STATISTICS, 1, 8192), "is not the one");
  ExpectRefused(*memory, MakeObject(KVS_PLANS, 0, 8192), "is not the one of 4096");
  ExpectRefused(*memory, MakeObject(0, 0, 4096), "unknown kind 0");
  ExpectRefused(*memory, MakeObject(5, 0, 4096), "unknown kind 5");
  ExpectRefused(*memory, ReceivedObject{KVS_TABLES, 0, 32, MakeFile(32)}, "shorter than its header");
  ASSERT_TRUE(memory->Map(MakeObject(KVS_STATISTICS, 0, 8192)).ok());
  ExpectRefused(*memory, MakeObject(KVS_STATISTICS, 0, 8192), "is not the one");
  ASSERT_TRUE(memory->Map(MakeObject(KVS_TABLES, 0, 4096)).ok());
  ExpectRefused(*memory, MakeObject(KVS_TABLES, 0, 4096), "came twice");
}

TEST(LeaseMemory, RefusesWrongHeaders) {
  auto memory = Reserved();
  const auto with = [](auto change) {
    ReceivedObject object = MakeObject(KVS_TABLES, 0, 4096);
    kvs_region_header header = testing::MakeHeader(KVS_TABLES, 0, 4096);
    change(header);
    EXPECT_EQ(pwrite(object.fd.get(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
    return object;
  };
  ExpectRefused(*memory, with([](kvs_region_header& h) { h.magic ^= 1; }), "begins with a header");
  ExpectRefused(*memory, with([](kvs_region_header& h) { h.version = 2; }), "version 2");
  ExpectRefused(*memory, with([](kvs_region_header& h) { h.kind = KVS_PLANS; }), "kind 4");
  ExpectRefused(*memory, with([](kvs_region_header& h) { h.index = 9; }), "index 9");
  ExpectRefused(*memory, with([](kvs_region_header& h) { h.bytes = 8192; }), "8192 bytes");
  EXPECT_TRUE(memory->Map(with([](kvs_region_header&) {})).ok());
}

}  // namespace
}  // namespace kvsteward
