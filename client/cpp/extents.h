// Where a lease's extents are mapped in the worker: one address range of the host's, or of a CUDA device's. Mapping is
// thread-compatible; copies come from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/piece.h"
#include "client/cpp/connection.h"

namespace kvsteward {

class Extents {
 public:
  virtual ~Extents() = default;  // everything is unmapped
  virtual std::byte* data() const = 0;

  // Maps an extent `offset` bytes into the range, for reading and writing. INTERNAL, saying what it lacks, if it is not
  // what was announced. REQUIRES: nothing lies there, it ends within the range, both are multiples of the granularity.
  virtual absl::Status Map(const ReceivedObject& extent, uint64_t offset) = 0;
  // Copies from the host; done on return. REQUIRES: extents are mapped there.
  virtual absl::Status Write(const Piece& piece) const = 0;
};

// `bytes` of address space, without memory behind it. INTERNAL if extents of `extent_bytes` cannot be mapped one behind
// the other, RESOURCE_EXHAUSTED if the process may not have so much.
absl::StatusOr<std::unique_ptr<Extents>> ReserveHostExtents(uint64_t bytes, uint64_t extent_bytes);
// The same on the device that has this UUID. FAILED_PRECONDITION, or NOT_FOUND, if this process cannot use it.
absl::StatusOr<std::unique_ptr<Extents>> ReserveCudaExtents(const std::string& uuid, uint64_t bytes,
                                                            uint64_t extent_bytes);

}  // namespace kvsteward
