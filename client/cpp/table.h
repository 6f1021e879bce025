// Reads what the sidecar exports about one sequence: its table and its plans. The memory is the sidecar's and may hold
// anything at any time: whatever is read from it is clamped by what was checked once. Values that look into a lease's
// memory; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/shm.h"

namespace kvsteward {

class SequenceTable {
 public:
  // One unit's valid row.
  struct Row {
    uint32_t row_len = 0;  // residents when the row was settled, at most those that fit into `blocks`
    uint32_t base_tokens = 0;
    std::span<const uint32_t> blocks;

    // Residents after `tokens` tokens of the sequence.
    uint32_t Residents(uint32_t tokens) const;
  };

  // The table `offset` bytes into a chunk. INTERNAL if it is not one of `units` units that lies in the chunk.
  static absl::StatusOr<SequenceTable> Open(std::span<const std::byte> chunk, uint64_t offset, uint32_t units);

  // REQUIRES: unit < units().
  Row Current(uint32_t unit) const;
  uint32_t units() const { return units_; }

 private:
  const std::byte* table_ = nullptr;
  uint32_t units_ = 0;
  uint32_t row_capacity_ = 0;  // blocks
};

// The plan in [offset, offset + bytes) of a plan region. INTERNAL unless it is one of this sequence and everything that
// it refers to lies within it and fits these lengths before (residents) and after (kept).
absl::StatusOr<const kvs_plan*> OpenPlan(std::span<const std::byte> region, uint64_t offset, uint64_t bytes,
                                         uint64_t sequence, std::span<const uint32_t> lengths,
                                         std::span<const uint32_t> kept);

}  // namespace kvsteward
