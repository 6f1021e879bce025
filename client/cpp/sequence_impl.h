// A sequence as the client holds it. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/lease.h"
#include "client/cpp/table.h"
#include "kvsteward/client.h"

namespace kvsteward {

// Invariants: written <= reserved <= max_tokens.
struct Sequence::Impl {
  ~Impl();

  // Reserves for sequences of one lease in one call. One status each, in order.
  static absl::StatusOr<std::vector<absl::Status>> Reserve(Lease& lease, std::span<Impl* const> sequences,
                                                           std::span<const uint32_t> total_tokens);
  absl::Status Alive() const;
  std::byte* Key(uint32_t unit, uint32_t slot) const;
  std::span<const uint32_t> Row(uint32_t unit) const;
  // Takes note of the version that a reply brought. If rows have changed, only what is written has room: settled rows
  // have no blocks to spare, and those that the table may still show are no longer the sequence's.
  void Settle(uint64_t new_version);

  std::shared_ptr<Lease> lease;
  uint64_t id = 0;
  uint32_t max_tokens = 0;
  SequenceTable table;  // of no units once released
  uint64_t version = 0;
  uint32_t written = 0;
  uint32_t reserved = 0;
  std::optional<uint32_t> planned_at;  // tokens written when it was last evicted
  bool released = false;
};

}  // namespace kvsteward
