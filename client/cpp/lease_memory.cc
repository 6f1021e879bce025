#include "client/cpp/lease_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvsteward/shm.h"

namespace kvsteward {
namespace {

std::string Describe(const ReceivedObject& object) {
  static constexpr const char* kNames[] = {"object", "extent", "table chunk", "statistics region", "plan region"};
  const char* name = object.kind <= KVS_PLANS ? kNames[object.kind] : kNames[0];
  return absl::StrCat("the sidecar's ", name, " ", object.index);
}

absl::Status Wrong(const ReceivedObject& object, const std::string& why) {
  return absl::InternalError(absl::StrCat(Describe(object), " ", why));
}

// A file that is as large as announced and stays so: reading it cannot fault.
absl::Status CheckFile(const ReceivedObject& object) {
  struct stat file {};
  if (fstat(object.fd.get(), &file) != 0) return Wrong(object, absl::StrCat("cannot be read: ", std::strerror(errno)));
  if (object.bytes == 0 || file.st_size < 0 || static_cast<uint64_t>(file.st_size) != object.bytes) {
    return Wrong(object, absl::StrCat("is announced with ", object.bytes, " bytes but has ", file.st_size));
  }
  const int seals = fcntl(object.fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return Wrong(object, "is not sealed against shrinking");
  return absl::OkStatus();
}

absl::Status MapFailed(const ReceivedObject& object) {
  return absl::ResourceExhaustedError(absl::StrCat(Describe(object), " cannot be mapped: ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LeaseMemory>> LeaseMemory::Reserve(const LeaseLayout& layout) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // Blocks are numbered through all extents, so extents must lie one behind the other on page boundaries.
  if (layout.block_bytes == 0 || layout.blocks_per_extent == 0 || layout.extent_bytes > kAddressSpaceBytes ||
      layout.blocks_per_extent > kAddressSpaceBytes / layout.block_bytes ||
      layout.blocks_per_extent * layout.block_bytes != layout.extent_bytes || layout.extent_bytes % page != 0) {
    return absl::InternalError(absl::StrCat("the sidecar's extents of ", layout.extent_bytes,
                                            " bytes do not consist of ", layout.blocks_per_extent, " blocks of ",
                                            layout.block_bytes, " bytes in whole pages"));
  }
  void* space = mmap(nullptr, kAddressSpaceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot set aside ", kAddressSpaceBytes,
                                                     " bytes of address space for the lease's extents (",
                                                     std::strerror(errno), "): raise the worker's `ulimit -v`"));
  }
  std::unique_ptr<LeaseMemory> memory(new LeaseMemory(layout));
  memory->space_ = Mapping(space, kAddressSpaceBytes);
  madvise(space, kAddressSpaceBytes, MADV_DONTFORK);
  return memory;
}

absl::Status LeaseMemory::Map(ReceivedObject object) {
  if (object.kind < KVS_EXTENT || object.kind > KVS_PLANS) {
    return Wrong(object, absl::StrCat("is of the unknown kind ", object.kind));
  }
  if (absl::Status status = CheckFile(object); !status.ok()) return status;
  MutexLock lock(mutex_);
  absl::Status status = object.kind == KVS_EXTENT ? MapExtent(object) : MapRegion(object);
  changed_.NotifyAll();
  return status;
}

absl::Status LeaseMemory::MapExtent(const ReceivedObject& object) {
  if (object.bytes != layout_.extent_bytes) {
    return Wrong(object, absl::StrCat("has ", object.bytes, " bytes where Attach said ", layout_.extent_bytes));
  }
  if (object.index >= kAddressSpaceBytes / layout_.extent_bytes) {
    return Wrong(object, "lies beyond the address space that a lease can use");
  }
  if (!extents_.insert(object.index).second) return Wrong(object, "came twice");
  std::byte* address = space_.data() + object.index * layout_.extent_bytes;
  void* mapped = mmap(address, object.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, object.fd.get(), 0);
  if (mapped == MAP_FAILED) return MapFailed(object);
  madvise(mapped, object.bytes, MADV_DONTFORK);
  uint64_t blocks = blocks_.load(std::memory_order_relaxed);
  while (extents_.contains(static_cast<uint32_t>(blocks / layout_.blocks_per_extent))) {
    blocks += layout_.blocks_per_extent;
  }
  blocks_.store(blocks, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status LeaseMemory::MapRegion(const ReceivedObject& object) {
  const bool writable = object.kind == KVS_STATISTICS;
  if (object.kind != KVS_TABLES) {
    const uint64_t due = writable ? layout_.statistics_bytes : layout_.plan_bytes;
    if (object.index != 0 || object.bytes != due || (writable ? statistics_ : plans_)) {
      return Wrong(object,
                   absl::StrCat("of ", object.bytes, " bytes is not the one of ", due, " that Attach spoke of"));
    }
  }
  if (object.kind == KVS_TABLES && tables_.contains(object.index)) return Wrong(object, "came twice");
  if (object.bytes < sizeof(kvs_region_header)) return Wrong(object, "is shorter than its header");
  void* address =
      mmap(nullptr, object.bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, object.fd.get(), 0);
  if (address == MAP_FAILED) return MapFailed(object);
  Mapping mapping(address, object.bytes);
  madvise(address, object.bytes, MADV_DONTFORK);
  kvs_region_header header;
  std::memcpy(&header, address, sizeof(header));
  if (header.magic != KVS_SHM_MAGIC || header.version != KVS_SHM_VERSION || header.kind != object.kind ||
      header.index != object.index || header.bytes != object.bytes) {
    return Wrong(object, absl::StrCat("begins with a header of magic ", header.magic, ", version ", header.version,
                                      ", kind ", header.kind, ", index ", header.index, ", ", header.bytes, " bytes"));
  }
  if (object.kind == KVS_TABLES) {
    tables_.emplace(object.index, std::move(mapping));
    while (tables_.contains(chunks_)) ++chunks_;
  } else {
    (writable ? statistics_ : plans_) = std::move(mapping);
  }
  return absl::OkStatus();
}

void LeaseMemory::Close(absl::Status status) {
  MutexLock lock(mutex_);
  closed_.Update(std::move(status));
  changed_.NotifyAll();
}

bool LeaseMemory::Have(uint32_t extents, uint32_t table_chunks) const {
  return statistics_ && (layout_.plan_bytes == 0 || plans_) && chunks_ >= table_chunks &&
         blocks_.load(std::memory_order_relaxed) / layout_.blocks_per_extent >= extents;
}

absl::Status LeaseMemory::Await(uint32_t extents, uint32_t table_chunks, Deadline deadline) {
  MutexLock lock(mutex_);
  while (!Have(extents, table_chunks)) {
    if (!closed_.ok()) return closed_;
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("the sidecar's reply speaks of ", extents, " extents and ",
                                                      table_chunks, " table chunks, of which not all arrived in time"));
    }
    changed_.WaitUntil(mutex_, deadline);
  }
  return absl::OkStatus();
}

std::span<const std::byte> LeaseMemory::TableChunk(uint32_t index) const {
  MutexLock lock(mutex_);
  const Mapping& mapping = tables_.at(index);
  return {mapping.data(), mapping.size()};
}

std::span<std::byte> LeaseMemory::statistics() const {
  MutexLock lock(mutex_);
  return {statistics_.data(), statistics_.size()};
}

std::span<const std::byte> LeaseMemory::plans() const {
  MutexLock lock(mutex_);
  return {plans_.data(), plans_.size()};
}

}  // namespace kvsteward
