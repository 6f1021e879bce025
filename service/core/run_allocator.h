// Free runs of neighbouring numbers: blocks of a lease, or 64-byte places of a region. Every operation costs O(log n)
// per run it touches, n being the number of free runs; the length of a run never matters. Deterministic. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/run.h"
#include "service/core/types.h"

namespace kvsteward::core {

// Invariants: free runs are disjoint and never touch; `by_length_` holds exactly the runs of `by_first_`; free_ is
// their sum.
class RunAllocator {
 public:
  // Gives numbers back, or makes them known. REQUIRES: none of them is free.
  void Free(Run run);
  // Rows that grew together hold neighbours at the same place: these are joined before they are given back.
  void Free(std::span<const Row> rows);
  // Takes exactly `count` numbers: from the shortest run that holds them all, else the longest runs first.
  // REQUIRES: count <= free().
  Row Take(uint64_t count);
  // Takes `count` neighbours from the shortest run that holds them; nullopt if there is none. REQUIRES: count > 0.
  std::optional<Run> TakeOne(uint64_t count);

  uint64_t free() const { return free_; }
  uint32_t longest() const { return by_length_.empty() ? 0 : by_length_.rbegin()->first; }
  std::vector<Run> Runs() const;  // ascending
  absl::Status Check() const;     // INTERNAL if an invariant is broken

 private:
  // Takes the first `count` of the free run that begins at `first`.
  Run Cut(uint32_t first, uint32_t count);
  // Makes a free run another one that lies between the same neighbours; allocates nothing.
  void Reshape(std::map<uint32_t, uint32_t>::iterator at, Run run);

  std::map<uint32_t, uint32_t> by_first_;              // first -> count
  std::set<std::pair<uint32_t, uint32_t>> by_length_;  // (count, first)
  uint64_t free_ = 0;
};

}  // namespace kvsteward::core
