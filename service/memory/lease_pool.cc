#include "service/memory/lease_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "kvsteward/shm.h"

namespace kvsteward::memory {
namespace {

constexpr uint64_t kTokenBytes = 4;  // in each of the side arrays
static_assert(sizeof(*engine::PoolView::positions) == kTokenBytes && sizeof(*engine::PoolView::norms) == kTokenBytes &&
              sizeof(*engine::PoolView::running) == kTokenBytes);

uint64_t PageBytes() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

uint64_t RoundUpToPage(uint64_t bytes) { return (bytes + PageBytes() - 1) / PageBytes() * PageBytes(); }

absl::StatusOr<Mapping> ReserveAddresses(uint64_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError("reserving " + std::to_string(bytes) +
                                        " bytes of address space for a lease failed: " + std::strerror(errno));
  }
  madvise(data, bytes, MADV_DONTFORK);
  return Mapping(data, bytes);
}

void WriteHeader(std::span<std::byte> region, const core::Object& object, core::LeaseId lease) {
  const kvs_region_header header{.magic = KVS_SHM_MAGIC,
                                 .version = KVS_SHM_VERSION,
                                 .kind = ShmKind(object.kind),
                                 .index = object.index,
                                 .bytes = object.bytes,
                                 .lease = lease,
                                 .reserved = {}};
  std::memcpy(region.data(), &header, sizeof(header));
}

}  // namespace

uint32_t ShmKind(core::ObjectKind kind) {
  switch (kind) {
    case core::ObjectKind::kExtent:
      return KVS_EXTENT;
    case core::ObjectKind::kTables:
      return KVS_TABLES;
    case core::ObjectKind::kStatistics:
      return KVS_STATISTICS;
    case core::ObjectKind::kPlans:
      return KVS_PLANS;
  }
  return 0;
}

LeasePool::LeasePool(core::LeaseId lease, std::shared_ptr<const core::LeaseSpec> spec, uint64_t arena_bytes)
    : lease_(lease), spec_(std::move(spec)), arena_bytes_(arena_bytes) {}

absl::Status LeasePool::ReserveRanges(uint64_t extent_bytes) {
  const uint64_t block_bytes = spec_->geometry.block_bytes();
  const uint64_t extents = arena_bytes_ / extent_bytes + (arena_bytes_ % extent_bytes != 0);
  const uint64_t side_bytes = extents * (extent_bytes / block_bytes) * engine::kBlockTokens * kTokenBytes;
  if (extents > std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError("the arena holds more extents than a lease can number");
  }
  absl::StatusOr<Mapping> blocks = ReserveAddresses(extents * extent_bytes);
  if (!blocks.ok()) return blocks.status();
  absl::StatusOr<Mapping> positions = ReserveAddresses(RoundUpToPage(side_bytes));
  if (!positions.ok()) return positions.status();
  absl::StatusOr<Mapping> norms = ReserveAddresses(RoundUpToPage(side_bytes));
  if (!norms.ok()) return norms.status();
  absl::StatusOr<Mapping> running = ReserveAddresses(RoundUpToPage(side_bytes));
  if (!running.ok()) return running.status();
  blocks_ = *std::move(blocks);
  positions_ = *std::move(positions);
  norms_ = *std::move(norms);
  running_ = *std::move(running);
  extent_bytes_ = extent_bytes;
  max_extents_ = static_cast<uint32_t>(extents);
  return absl::OkStatus();
}

uint64_t LeasePool::SideBytes() const {
  return extent_bytes_ / spec_->geometry.block_bytes() * engine::kBlockTokens * kTokenBytes;
}

absl::Status LeasePool::AddSideArrays(uint32_t index) {
  const uint64_t bytes = SideBytes();
  // Neighbours may share a page.
  const uint64_t begin = index * bytes / PageBytes() * PageBytes();
  const uint64_t end = RoundUpToPage(index * bytes + bytes);
  for (const Mapping* array : {&positions_, &norms_, &running_}) {
    std::byte* const data = array->data() + begin;
    if (mprotect(data, end - begin, PROT_READ | PROT_WRITE) != 0) {
      return absl::ResourceExhaustedError("opening " + std::to_string(end - begin) +
                                          " bytes of an extent's side array failed: " + std::strerror(errno));
    }
    if (array == &running_) continue;  // charged, but its pages come when they are touched
    // Present from the start like the extent itself, so that a shortage shows here. Old kernels do not know the advice.
    if (madvise(data, end - begin, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
      return absl::ResourceExhaustedError("the machine has no memory for an extent's side array of " +
                                          std::to_string(end - begin) + " bytes: " + std::strerror(errno));
    }
  }
  return absl::OkStatus();
}

void LeasePool::DropSideArrays(uint32_t index) {
  const uint64_t bytes = SideBytes();
  // Only whole pages: what is shared with a neighbour stays until the pool goes.
  const uint64_t begin = RoundUpToPage(index * bytes);
  const uint64_t end = (index * bytes + bytes) / PageBytes() * PageBytes();
  if (begin >= end) return;
  for (const Mapping* array : {&positions_, &norms_, &running_}) {
    madvise(array->data() + begin, end - begin, MADV_DONTNEED);
  }
}

absl::Status LeasePool::Add(Backend& backend, const core::Object& object) {
  std::byte* at = nullptr;
  if (object.kind == core::ObjectKind::kExtent) {
    MutexLock lock(mutex_);
    if (extent_bytes_ == 0) {
      if (absl::Status status = ReserveRanges(object.bytes); !status.ok()) return status;
    }
    if (object.bytes != extent_bytes_ || object.index >= max_extents_) {
      return absl::ResourceExhaustedError("extent " + std::to_string(object.index) + " of " +
                                          std::to_string(object.bytes) + " bytes does not fit the lease's range of " +
                                          std::to_string(max_extents_) + " extents of " +
                                          std::to_string(extent_bytes_) + " bytes");
    }
    if (absl::Status status = AddSideArrays(object.index); !status.ok()) {
      DropSideArrays(object.index);
      return status;
    }
    at = blocks_.data() + object.index * extent_bytes_;
  }
  const bool worker_writes = object.kind == core::ObjectKind::kExtent || object.kind == core::ObjectKind::kStatistics;
  // Slow, and so outside of the lock: the kernel clears every page.
  absl::StatusOr<std::unique_ptr<MemoryObject>> created =
      backend.Create(object.bytes, worker_writes ? Writers::kEveryone : Writers::kDaemon, at);
  if (!created.ok()) {
    MutexLock lock(mutex_);
    if (object.kind == core::ObjectKind::kExtent) DropSideArrays(object.index);
    return created.status();
  }
  if (object.kind != core::ObjectKind::kExtent) WriteHeader((*created)->bytes(), object, lease_);
  MutexLock lock(mutex_);
  objects_[{object.kind, object.index}] = *std::move(created);
  return absl::OkStatus();
}

void LeasePool::Remove(core::ObjectKind kind, uint32_t index) {
  std::unique_ptr<MemoryObject> removed;
  MutexLock lock(mutex_);
  const auto found = objects_.find({kind, index});
  if (found == objects_.end()) return;
  removed = std::move(found->second);
  objects_.erase(found);
  if (kind == core::ObjectKind::kExtent) DropSideArrays(index);
}

bool LeasePool::empty() const {
  MutexLock lock(mutex_);
  return objects_.empty();
}

engine::PoolView LeasePool::View() const {
  MutexLock lock(mutex_);
  return {.data = blocks_.data(),
          .block_bytes = spec_->geometry.block_bytes(),
          .positions = reinterpret_cast<int32_t*>(positions_.data()),
          .norms = reinterpret_cast<float*>(norms_.data()),
          .running = reinterpret_cast<float*>(running_.data())};
}

std::span<std::byte> LeasePool::Bytes(core::ObjectKind kind, uint32_t index) const {
  MutexLock lock(mutex_);
  const auto found = objects_.find({kind, index});
  return found == objects_.end() ? std::span<std::byte>() : found->second->bytes();
}

int LeasePool::Descriptor(core::ObjectKind kind, uint32_t index) const {
  MutexLock lock(mutex_);
  const auto found = objects_.find({kind, index});
  return found == objects_.end() ? -1 : found->second->descriptor();
}

void LeasePool::StorePositions(const std::vector<core::Unit>& units, std::span<const int32_t> positions) const {
  int32_t* const stored = View().positions;
  for (const core::Unit& unit : units) {
    auto left = static_cast<size_t>(unit.kept);
    for (const Run& run : unit.row) {
      const size_t count = std::min(left, size_t{run.count} * engine::kBlockTokens);
      if (count == 0) break;
      std::memcpy(stored + size_t{run.first} * engine::kBlockTokens, positions.data(), count * sizeof(int32_t));
      positions = positions.subspan(count);
      left -= count;
    }
  }
}

}  // namespace kvsteward::memory
