// What is known of an eviction before a score is: how many tokens there are, how many compete, how many stay. Plain
// data and integer arithmetic; thread-compatible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/plan.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

struct Outline {
  int32_t kv_heads = 0;
  int64_t k = 0;                    // tokens kept per kv head, mean over the sequence
  std::vector<int64_t> residents;   // [layers]
  std::vector<int64_t> candidates;  // [layers] before pins, until they are made

  // `candidates`: [units], of each unit.
  static Outline Of(const SequenceView& sequence, int64_t k, std::span<const int32_t> candidates);

  int64_t layers() const { return static_cast<int64_t>(residents.size()); }
  // Tokens that stay in all.
  int64_t total() const { return layers() * kv_heads * k; }
  // Whether the sequence is within its budget.
  bool no_op() const;
  // Tokens that stay beside the protected ones; negative if those are too many.
  int64_t candidates_that_stay() const;
  // INVALID_ARGUMENT if what is protected is more than what may stay.
  absl::Status CheckProtected(const Policy& policy) const;
  // Stage 6 for layer budgets that need no scores but the `entropies` of their kind: candidates that stay, [layers].
  std::vector<int64_t> SharesOfLayers(const Policy& policy, std::span<const double> entropies) const;
};

// The plan before its decisions: sizes and, if `masks`, room for masks.
Plan EmptyPlan(const SequenceView& sequence, const Outline& outline, bool masks);

// Makes an empty plan one that keeps everything.
void KeepAll(Plan& plan);

}  // namespace kvsteward::engine
