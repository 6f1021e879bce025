// One of the arrays that lie beside a lease's extents, a word for each of their tokens: private to the daemon, indexed
// like the blocks. Thread-compatible; data() never changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/memory/backend.h"

namespace kvsteward::memory {

class SideArray {
 public:
  // For up to `extents` extents, `share` bytes each. REQUIRES: their product does not overflow; the backend outlives
  // the array's last Add and Remove.
  static absl::StatusOr<std::unique_ptr<SideArray>> Reserve(ExtentBackend& backend, uint64_t extents, uint64_t share,
                                                            ExtentBackend::Presence presence);

  std::byte* data() const { return range_->data(); }
  // As AddressRange::Store.
  absl::Status Store(std::span<const Piece> pieces) const { return range_->Store(pieces); }

  // Makes the memory of an extent's share: zeroes, but for granules that it has in common with extents that are here.
  // On an error, RESOURCE_EXHAUSTED, nothing is left behind. REQUIRES: it is not here.
  absl::Status Add(uint32_t extent);
  // Gives back what no other extent needs. REQUIRES: it is here.
  void Remove(uint32_t extent);

 private:
  // Neighbouring granules that the same extents share: one that several have a part of, or all that one has alone.
  struct Place {
    uint64_t begin = 0;  // in bytes
    uint64_t end = 0;
  };
  struct Memory {
    uint32_t extents = 0;  // how many that are here lie in it, never 0
    std::unique_ptr<MemoryObject> object;
  };

  SideArray(ExtentBackend& backend, uint64_t share, ExtentBackend::Presence presence)
      : backend_(backend), share_(share), presence_(presence) {}
  std::vector<Place> PlacesOf(uint32_t extent) const;

  ExtentBackend& backend_;
  const uint64_t share_;
  const ExtentBackend::Presence presence_;
  std::unique_ptr<AddressRange> range_;
  std::map<uint64_t, Memory> memory_;  // by Place::begin; behind the range: objects end before it
};

}  // namespace kvsteward::memory
