#include "client/cpp/lease_memory.h"

#include <sys/mman.h>

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/received_object.h"
#include "kvsteward/shm.h"

namespace kvsteward {

absl::StatusOr<std::unique_ptr<LeaseMemory>> LeaseMemory::Reserve(const LeaseLayout& layout) {
  // Blocks are numbered through all extents, so extents must lie one behind the other.
  if (layout.block_bytes == 0 || layout.blocks_per_extent == 0 || layout.extent_bytes > kAddressSpaceBytes ||
      layout.blocks_per_extent > kAddressSpaceBytes / layout.block_bytes ||
      layout.blocks_per_extent * layout.block_bytes != layout.extent_bytes) {
    return absl::InternalError(absl::StrCat("the sidecar's extents of ", layout.extent_bytes,
                                            " bytes do not consist of ", layout.blocks_per_extent, " blocks of ",
                                            layout.block_bytes, " bytes"));
  }
  const uint64_t bytes = kAddressSpaceBytes / layout.extent_bytes * layout.extent_bytes;
  absl::StatusOr<std::unique_ptr<Extents>> space =
      layout.device_uuid.empty() ? ReserveHostExtents(bytes, layout.extent_bytes)
                                 : ReserveCudaExtents(layout.device_uuid, bytes, layout.extent_bytes);
  if (!space.ok()) return space.status();
  return std::unique_ptr<LeaseMemory>(new LeaseMemory(layout, *std::move(space)));
}

absl::Status LeaseMemory::Map(ReceivedObject object) {
  if (object.kind < KVS_EXTENT || object.kind > KVS_PLANS) {
    return Wrong(object, absl::StrCat("is of the unknown kind ", object.kind));
  }
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
  if (extents_.contains(object.index)) return Wrong(object, "came twice");
  if (absl::Status status = space_->Map(object, object.index * layout_.extent_bytes); !status.ok()) return status;
  extents_.insert(object.index);
  uint64_t blocks = blocks_.load(std::memory_order_relaxed);
  while (extents_.contains(static_cast<uint32_t>(blocks / layout_.blocks_per_extent))) {
    blocks += layout_.blocks_per_extent;
  }
  blocks_.store(blocks, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status LeaseMemory::MapRegion(const ReceivedObject& object) {
  if (absl::Status status = CheckFile(object); !status.ok()) return status;
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
