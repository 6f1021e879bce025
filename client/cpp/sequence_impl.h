// A sequence as the client holds it. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/lease.h"
#include "client/cpp/table.h"
#include "kvsteward/client.h"

namespace kvsteward {

// Invariant: written <= reserved <= max_tokens.
struct Sequence::Impl {
  ~Impl();

  // Reserves for sequences of one lease in one call. One status each, in order.
  static absl::StatusOr<std::vector<absl::Status>> Reserve(Lease& lease, std::span<Impl* const> sequences,
                                                           std::span<const uint32_t> total_tokens);
  absl::Status Alive() const;
  std::byte* Key(uint32_t unit, uint32_t slot) const;
  // The room that the table shows, for the replies that do not say it.
  void ReadRoom();

  std::shared_ptr<Lease> lease;
  uint64_t id = 0;
  uint32_t max_tokens = 0;
  SequenceTable table;  // of no units once released
  uint64_t version = 0;
  uint32_t written = 0;
  uint32_t reserved = 0;
  bool released = false;
};

}  // namespace kvsteward
