// One lease's memory as the daemon has it mapped: extents one behind the other in one reserved range, so that block b
// lies at base + b * block_bytes however the pool grows; the extents' side arrays, private to the daemon; and the
// regions. Thread-safe; Add and Remove come from one thread, memory's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "kvsteward/engine/paged.h"
#include "service/core/types.h"
#include "service/memory/backend.h"
#include "service/memory/lease_spec.h"

namespace kvsteward::memory {

class LeasePool {
 public:
  // `arena_bytes` bounds how far the pool can grow. REQUIRES: spec is not null.
  LeasePool(core::LeaseId lease, std::shared_ptr<const core::LeaseSpec> spec, uint64_t arena_bytes);

  const core::LeaseSpec& spec() const { return *spec_; }

  // Creates an object and maps it: an extent at its place, with its side arrays; a region anywhere, with its header
  // written. RESOURCE_EXHAUSTED if the machine has no more; then nothing is left behind.
  // REQUIRES: no object of this kind and index is here; extents are whole blocks and pages and all of one size.
  absl::Status Add(Backend& backend, const core::Object& object);
  // Gives an object's memory back. REQUIRES: it is here, and nobody uses its bytes.
  void Remove(core::ObjectKind kind, uint32_t index);
  bool empty() const;

  // Blocks outside of the extents that are here must not be touched.
  engine::PoolView View() const;
  // The object's bytes, empty if it is not here; and its descriptor, or -1. Both hold until Remove.
  std::span<std::byte> Bytes(core::ObjectKind kind, uint32_t index) const;
  int Descriptor(core::ObjectKind kind, uint32_t index) const;

  // Writes the positions of imported residents, all units' one after the other: the first `kept` of each.
  // REQUIRES: `positions` holds their sum, the units' rows hold `kept` tokens and lie in extents that are here.
  void StorePositions(const std::vector<core::Unit>& units, std::span<const int32_t> positions) const;

 private:
  using Key = std::pair<core::ObjectKind, uint32_t>;

  // Reserves address space for every extent that the arena could hold.
  absl::Status ReserveRanges(uint64_t extent_bytes) KVS_REQUIRES(mutex_);
  // Makes the side arrays of an extent's blocks accessible and, but for running scores, which few leases use, their
  // memory present; gives that memory back.
  absl::Status AddSideArrays(uint32_t index) KVS_REQUIRES(mutex_);
  void DropSideArrays(uint32_t index) KVS_REQUIRES(mutex_);
  // Bytes of one side array that belong to one extent.
  uint64_t SideBytes() const KVS_REQUIRES(mutex_);

  const core::LeaseId lease_;
  const std::shared_ptr<const core::LeaseSpec> spec_;
  const uint64_t arena_bytes_;

  mutable Mutex mutex_;
  uint64_t extent_bytes_ KVS_GUARDED_BY(mutex_) = 0;  // 0 until there is an extent
  uint32_t max_extents_ KVS_GUARDED_BY(mutex_) = 0;
  Mapping blocks_ KVS_GUARDED_BY(mutex_);
  Mapping positions_ KVS_GUARDED_BY(mutex_);
  Mapping norms_ KVS_GUARDED_BY(mutex_);
  Mapping running_ KVS_GUARDED_BY(mutex_);
  // Declared behind the ranges: extents must end before the range in which they lie.
  std::map<Key, std::unique_ptr<MemoryObject>> objects_ KVS_GUARDED_BY(mutex_);
};

// The object's kind in kvsteward/shm.h.
uint32_t ShmKind(core::ObjectKind kind);

}  // namespace kvsteward::memory
