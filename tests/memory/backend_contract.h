// What every memory backend promises. A backend's test includes this file and instantiates BackendContract.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "service/memory/backend.h"
#include "tests/memory/process.h"

namespace kvsteward::memory {

struct BackendUnderTest {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
  // How a worker maps what was exported; null if it may not.
  std::function<std::byte*(int descriptor, size_t bytes, bool writable)> map_exported;
};

class BackendContract : public testing::TestWithParam<BackendUnderTest> {
 protected:
  static constexpr size_t kBytes = 1 << 20;

  std::unique_ptr<MemoryObject> MustCreate(uint64_t bytes, Writers writers, std::byte* at = nullptr) {
    absl::StatusOr<std::unique_ptr<MemoryObject>> object = backend_->Create(bytes, writers, at);
    EXPECT_TRUE(object.ok()) << object.status();
    return object.ok() ? *std::move(object) : nullptr;
  }
  std::byte* MapExported(const MemoryObject& object, bool writable) const {
    return GetParam().map_exported(object.descriptor(), object.bytes().size(), writable);
  }

  std::unique_ptr<Backend> backend_ = GetParam().make();
};

TEST_P(BackendContract, AnObjectIsZeroesOfTheSizeAskedFor) {
  // The second one comes from memory that has just been written to.
  for (int round = 0; round < 2; ++round) {
    const auto object = MustCreate(kBytes, Writers::kEveryone);
    ASSERT_NE(object, nullptr);
    ASSERT_EQ(object->bytes().size(), kBytes);
    EXPECT_TRUE(std::ranges::all_of(object->bytes(), [](std::byte each) { return each == std::byte{0}; }));
    std::ranges::fill(object->bytes(), std::byte{0xab});
  }
}

TEST_P(BackendContract, BothSidesSeeWhatTheOtherWrites) {
  const auto object = MustCreate(kBytes, Writers::kEveryone);
  object->bytes()[kBytes - 1] = std::byte{7};
  EXPECT_TRUE(InAnotherProcess([&] {
    std::byte* const mapped = MapExported(*object, /*writable=*/true);
    if (mapped == nullptr || mapped[kBytes - 1] != std::byte{7}) return false;
    mapped[0] = std::byte{9};
    return true;
  }));
  EXPECT_EQ(object->bytes()[0], std::byte{9});
}

TEST_P(BackendContract, WhatOnlyTheDaemonWritesCanOnlyBeReadElsewhere) {
  const auto object = MustCreate(kBytes, Writers::kDaemon);
  object->bytes()[5] = std::byte{5};
  EXPECT_TRUE(InAnotherProcess([&] { return MapExported(*object, /*writable=*/true) == nullptr; }));
  EXPECT_TRUE(InAnotherProcess([&] {
    std::byte* const mapped = MapExported(*object, /*writable=*/false);
    return mapped != nullptr && mapped[5] == std::byte{5} && mprotect(mapped, kBytes, PROT_READ | PROT_WRITE) != 0;
  }));
  EXPECT_TRUE(InAnotherProcess([&] { return pwrite(object->descriptor(), "x", 1, 5) < 0; }));
  object->bytes()[5] = std::byte{6};  // still works here
  EXPECT_EQ(object->bytes()[5], std::byte{6});
}

TEST_P(BackendContract, NobodyCanResizeAnObject) {
  for (const Writers writers : {Writers::kEveryone, Writers::kDaemon}) {
    const auto object = MustCreate(kBytes, writers);
    EXPECT_TRUE(InAnotherProcess([&] {
      return ftruncate(object->descriptor(), 0) != 0 && ftruncate(object->descriptor(), kBytes / 2) != 0 &&
             ftruncate(object->descriptor(), 2 * kBytes) != 0;
    }));
    object->bytes()[kBytes - 1] = std::byte{1};
  }
}

TEST_P(BackendContract, AnObjectThatEndedIsEmptyWhereItIsStillMapped) {
  auto object = MustCreate(kBytes, Writers::kEveryone);
  std::byte* const mapped = MapExported(*object, /*writable=*/true);
  ASSERT_NE(mapped, nullptr);
  std::ranges::fill(object->bytes(), std::byte{1});
  object.reset();
  EXPECT_TRUE(std::all_of(mapped, mapped + kBytes, [](std::byte each) { return each == std::byte{0}; }));
  munmap(mapped, kBytes);
  object = MustCreate(kBytes, Writers::kDaemon);
  std::byte* const read = MapExported(*object, /*writable=*/false);
  ASSERT_NE(read, nullptr);
  object.reset();
  EXPECT_EQ(read[kBytes - 1], std::byte{0});  // can still be read
  munmap(read, kBytes);
}

TEST_P(BackendContract, AnObjectLiesWhereItIsAskedToAndLeavesItsPlaceReserved) {
  void* const range = mmap(nullptr, 3 * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(range, MAP_FAILED);
  std::byte* const middle = static_cast<std::byte*>(range) + kBytes;
  auto object = MustCreate(kBytes, Writers::kEveryone, middle);
  ASSERT_EQ(object->bytes().data(), middle);
  middle[0] = middle[kBytes - 1] = std::byte{1};
  object.reset();
  EXPECT_TRUE(IsMapped(middle));
  object = MustCreate(kBytes, Writers::kEveryone, middle);
  EXPECT_EQ(middle[0], std::byte{0});
  object.reset();
  munmap(range, 3 * kBytes);
}

TEST_P(BackendContract, AnObjectIsNotInheritedOverFork) {
  const auto object = MustCreate(kBytes, Writers::kEveryone);
  EXPECT_TRUE(IsMapped(object->bytes().data()));
  EXPECT_TRUE(InAnotherProcess([&] { return !IsMapped(object->bytes().data()); }));
  EXPECT_NE(fcntl(object->descriptor(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_P(BackendContract, AbsurdSizesAreRefusedAndLeaveNothingBehind) {
  const int before = OpenDescriptors();
  for (const uint64_t bytes : {uint64_t{1} << 50, uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0} << 12}) {
    EXPECT_EQ(backend_->Create(bytes, Writers::kEveryone, nullptr).status().code(),
              absl::StatusCode::kResourceExhausted)
        << bytes;
  }
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{100}, uint64_t{4097}}) {
    EXPECT_EQ(backend_->Create(bytes, Writers::kEveryone, nullptr).status().code(), absl::StatusCode::kInvalidArgument)
        << bytes;
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_P(BackendContract, DestroyedObjectsLeaveNothingBehind) {
  const int before = OpenDescriptors();
  std::vector<std::byte*> addresses;
  {
    std::vector<std::unique_ptr<MemoryObject>> objects;
    for (int i = 0; i < 10; ++i) {
      objects.push_back(MustCreate(kBytes, i % 2 == 0 ? Writers::kEveryone : Writers::kDaemon));
      addresses.push_back(objects.back()->bytes().data());
    }
    EXPECT_GT(OpenDescriptors(), before);
  }
  EXPECT_EQ(OpenDescriptors(), before);
  for (const std::byte* address : addresses) EXPECT_FALSE(IsMapped(address));
}

}  // namespace kvsteward::memory
