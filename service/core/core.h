// Who owns what. One pure state machine: Apply(event, now) -> effects. It has no clock, thread, lock, randomness, gRPC
// or device, so a simulator can drive it as well as the daemon does. Not thread-safe: one caller, the steward's loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "service/core/effects.h"
#include "service/core/events.h"
#include "service/core/types.h"

namespace kvsteward::core {

struct TenantConfig {
  std::string name;
  uint64_t hard_limit_bytes = 0;  // of arena bytes, metadata included
  PolicyRef policy = nullptr;     // of calls that name none, until SetTenantAsked. Not null if there are such calls
};

struct Config {
  uint64_t arena_bytes = 0;
  uint64_t extent_bytes = 64u << 20;      // rounded per lease to whole blocks and pages
  uint64_t page_bytes = 4096;             // granularity of memory objects,
  uint64_t extent_granularity = 0;        // and that of extents: whole pages, or nothing more than a page
  bool extent_at_attach = false;          // a lease's first extent comes with its regions, for the self-test
  uint64_t table_chunk_bytes = 1u << 20;  // table regions grow by chunks of at least this
  int64_t compaction_reserve_ppm = 10'000;
  uint64_t first_epoch = 1;              // greater than any epoch of an earlier sidecar
  uint32_t max_leases_per_tenant = 256;  // attached ones, and ended ones until their memory is back
  uint32_t max_sequences_per_lease = 65'536;
  uint32_t queued_evicts_per_lease = 8;
  std::vector<TenantConfig> tenants;
};

// Bytes of a sequence's entry in the table region (kvsteward/shm.h), for `units` rows of `row_capacity` blocks.
uint64_t TableBytes(int32_t units, uint32_t row_capacity);
// Bytes of a plan in the plan region for units of these lengths.
uint64_t PlanBytes(const std::vector<int32_t>& lengths, bool scores);

// What a request's budget comes to in tokens per unit once `seen` tokens were seen; 0 if it comes to none. Pure.
using BudgetTokens = std::function<int32_t(const LeaseSpec& lease, const EvictSpec& spec, int32_t seen)>;

class Core {
 public:
  Core(Config config, BudgetTokens budget_tokens);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // Effects are to be carried out in order.
  std::vector<Effect> Apply(const Event& event, Time now);

  Ledger ledger() const;
  // Recounts everything from the state and compares: INTERNAL naming the difference if a promise is broken (P8, no
  // block owned twice, invariants of Unit).
  absl::Status Check() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvsteward::core
