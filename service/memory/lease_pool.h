// One lease's memory as the daemon has it mapped: extents one behind the other in one reserved range, so that block b
// lies at base + b * block_bytes however the pool grows; the extents' side arrays, private to the daemon; and the
// regions. Extents and side arrays may lie on a device: then their addresses are that device's, and the host follows
// none of them. Thread-safe; Add... and Remove come from one thread, memory's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "kvsteward/engine/paged.h"
#include "service/core/types.h"
#include "service/memory/backend.h"
#include "service/memory/lease_spec.h"
#include "service/memory/side_array.h"

namespace kvsteward::memory {

class LeasePool {
 public:
  // `arena_bytes` bounds how far the pool can grow. REQUIRES: spec is not null.
  LeasePool(core::LeaseId lease, std::shared_ptr<const core::LeaseSpec> spec, uint64_t arena_bytes);

  const core::LeaseSpec& spec() const { return *spec_; }

  // Creates an extent at its place, with its side arrays. RESOURCE_EXHAUSTED if the machine has no more; then nothing
  // is left behind. REQUIRES: it is not here; extents are whole blocks and granules and all of one size; always the
  // same backend, which lives as long as extents are added and removed.
  absl::Status AddExtent(ExtentBackend& backend, const core::Object& object);
  // The same for a region, which lies anywhere, with its header written.
  absl::Status AddRegion(Backend& backend, const core::Object& object);
  // Gives an object's memory back. REQUIRES: it is here, and nobody uses its bytes.
  void Remove(core::ObjectKind kind, uint32_t index);
  bool empty() const;

  // Blocks outside of the extents that are here must not be touched.
  engine::PoolView View() const;
  // The object's bytes, empty if it is not here; and its descriptor, or -1. Both hold until Remove.
  std::span<std::byte> Bytes(core::ObjectKind kind, uint32_t index) const;
  int Descriptor(core::ObjectKind kind, uint32_t index) const;

  // Copies what lies `offset` bytes behind the first extent's beginning. REQUIRES: in extents that are here.
  absl::Status LoadBlocks(uint64_t offset, std::span<std::byte> to) const;
  // Writes the positions of imported residents, all units' one after the other: the first `kept` of each.
  // REQUIRES: `positions` holds their sum, the units' rows hold `kept` tokens and lie in extents that are here. An
  // error means that the device is lost, here as above.
  absl::Status StorePositions(const std::vector<core::Unit>& units, std::span<const int32_t> positions) const;

 private:
  using Key = std::pair<core::ObjectKind, uint32_t>;

  // Address ranges for every extent that the arena could hold, made with the first one.
  struct Extents {
    uint64_t bytes = 0;  // of each
    uint64_t most = 0;
    std::unique_ptr<AddressRange> blocks;
    std::unique_ptr<SideArray> positions;
    std::unique_ptr<SideArray> norms;
    std::unique_ptr<SideArray> running;
  };

  absl::StatusOr<std::unique_ptr<Extents>> ReserveRanges(ExtentBackend& backend, uint64_t extent_bytes) const;
  const Extents* extents() const;

  const core::LeaseId lease_;
  const std::shared_ptr<const core::LeaseSpec> spec_;
  const uint64_t arena_bytes_;

  mutable Mutex mutex_;
  // Null until there is an extent; what it points to is memory's thread's to change, and addresses never do.
  std::unique_ptr<Extents> extents_ KVS_GUARDED_BY(mutex_);
  // Declared behind the ranges: extents must end before the range in which they lie.
  std::map<Key, std::unique_ptr<MemoryObject>> objects_ KVS_GUARDED_BY(mutex_);
};

// The object's kind in kvsteward/shm.h.
uint32_t ShmKind(core::ObjectKind kind);

}  // namespace kvsteward::memory
