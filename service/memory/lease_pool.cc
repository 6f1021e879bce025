#include "service/memory/lease_pool.h"

#include <algorithm>
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

absl::StatusOr<std::unique_ptr<LeasePool::Extents>> LeasePool::ReserveRanges(ExtentBackend& backend,
                                                                             uint64_t extent_bytes) const {
  const uint64_t most = arena_bytes_ / extent_bytes + (arena_bytes_ % extent_bytes != 0);
  if (most > std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError("the arena holds more extents than a lease can number");
  }
  auto extents = std::make_unique<Extents>();
  extents->bytes = extent_bytes;
  extents->most = most;
  absl::StatusOr<std::unique_ptr<AddressRange>> blocks = backend.Reserve(most * extent_bytes);
  if (!blocks.ok()) return blocks.status();
  extents->blocks = *std::move(blocks);
  const uint64_t share = extent_bytes / spec_->geometry.block_bytes() * engine::kBlockTokens * kTokenBytes;
  // Running scores are charged, but few leases use them: on the host their pages come when they are touched.
  for (auto [array, presence] : {std::pair(&extents->positions, ExtentBackend::Presence::kNow),
                                 std::pair(&extents->norms, ExtentBackend::Presence::kNow),
                                 std::pair(&extents->running, ExtentBackend::Presence::kWhenTouched)}) {
    absl::StatusOr<std::unique_ptr<SideArray>> reserved = SideArray::Reserve(backend, most, share, presence);
    if (!reserved.ok()) return reserved.status();
    *array = *std::move(reserved);
  }
  return extents;
}

const LeasePool::Extents* LeasePool::extents() const {
  MutexLock lock(mutex_);
  return extents_.get();
}

absl::Status LeasePool::AddExtent(ExtentBackend& backend, const core::Object& object) {
  if (extents() == nullptr) {
    absl::StatusOr<std::unique_ptr<Extents>> reserved = ReserveRanges(backend, object.bytes);
    if (!reserved.ok()) return reserved.status();
    MutexLock lock(mutex_);
    extents_ = *std::move(reserved);
  }
  const Extents& extents = *this->extents();
  if (object.bytes != extents.bytes || object.index >= extents.most) {
    return absl::ResourceExhaustedError("extent " + std::to_string(object.index) + " of " +
                                        std::to_string(object.bytes) + " bytes does not fit the lease's range of " +
                                        std::to_string(extents.most) + " extents of " + std::to_string(extents.bytes) +
                                        " bytes");
  }
  // Slow, and so outside of the lock: every page is cleared.
  std::vector<SideArray*> added;
  absl::Status status;
  for (SideArray* array : {extents.positions.get(), extents.norms.get(), extents.running.get()}) {
    status = array->Add(object.index);
    if (!status.ok()) break;
    added.push_back(array);
  }
  if (status.ok()) {
    absl::StatusOr<std::unique_ptr<MemoryObject>> created =
        backend.Create(object.bytes, Writers::kEveryone, extents.blocks->data() + object.index * extents.bytes);
    if (created.ok()) {
      MutexLock lock(mutex_);
      objects_[{object.kind, object.index}] = *std::move(created);
      return absl::OkStatus();
    }
    status = created.status();
  }
  for (SideArray* array : added) array->Remove(object.index);
  return status;
}

absl::Status LeasePool::AddRegion(Backend& backend, const core::Object& object) {
  const Writers writers = object.kind == core::ObjectKind::kStatistics ? Writers::kEveryone : Writers::kDaemon;
  absl::StatusOr<std::unique_ptr<MemoryObject>> created = backend.Create(object.bytes, writers, nullptr);
  if (!created.ok()) return created.status();
  WriteHeader((*created)->bytes(), object, lease_);
  MutexLock lock(mutex_);
  objects_[{object.kind, object.index}] = *std::move(created);
  return absl::OkStatus();
}

void LeasePool::Remove(core::ObjectKind kind, uint32_t index) {
  std::unique_ptr<MemoryObject> removed;
  {
    MutexLock lock(mutex_);
    const auto found = objects_.find({kind, index});
    if (found == objects_.end()) return;
    removed = std::move(found->second);
    objects_.erase(found);
  }
  removed.reset();
  if (kind != core::ObjectKind::kExtent) return;
  const Extents& extents = *this->extents();
  for (SideArray* array : {extents.positions.get(), extents.norms.get(), extents.running.get()}) array->Remove(index);
}

bool LeasePool::empty() const {
  MutexLock lock(mutex_);
  return objects_.empty();
}

engine::PoolView LeasePool::View() const {
  engine::PoolView view;
  view.block_bytes = spec_->geometry.block_bytes();
  if (const Extents* const extents = this->extents(); extents != nullptr) {
    view.data = extents->blocks->data();
    view.positions = reinterpret_cast<int32_t*>(extents->positions->data());
    view.norms = reinterpret_cast<float*>(extents->norms->data());
    view.running = reinterpret_cast<float*>(extents->running->data());
  }
  return view;
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

absl::Status LeasePool::LoadBlocks(uint64_t offset, std::span<std::byte> to) const {
  const AddressRange& blocks = *extents()->blocks;
  return blocks.Load(blocks.data() + offset, to);
}

absl::Status LeasePool::StorePositions(const std::vector<core::Unit>& units, std::span<const int32_t> positions) const {
  const Extents* const extents = this->extents();
  if (extents == nullptr) return absl::OkStatus();  // then there are no residents
  std::byte* const stored = extents->positions->data();
  std::vector<Piece> pieces;
  for (const core::Unit& unit : units) {
    auto left = static_cast<size_t>(unit.kept);
    for (const Run& run : unit.row) {
      const size_t count = std::min(left, size_t{run.count} * engine::kBlockTokens);
      if (count == 0) break;
      pieces.push_back(
          {stored + size_t{run.first} * engine::kBlockTokens * kTokenBytes, std::as_bytes(positions.first(count))});
      positions = positions.subspan(count);
      left -= count;
    }
  }
  return extents->positions->Store(pieces);
}

}  // namespace kvsteward::memory
