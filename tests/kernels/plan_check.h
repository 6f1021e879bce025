// Whether a plan, or a refusal to make one, is right by the specification's rule: the emitted scores are within epsilon
// of the float64 reference, and the reference makes the same plan of them, bit for bit. Every check fails the current
// test. Stateless.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kvsteward/engine/plan.h"
#include "tests/kernels/paged_sequence.h"

namespace kvsteward::engine {

bool Keeps(const Plan& plan, size_t u, size_t j);

// `sequence` as it was when the plan was made.
void ExpectPlanIsRight(PagedSequence& sequence, const Policy& policy, const Plan& plan);

// Refused for one of the reasons that only the sequence tells: its protected tokens exceed k, with the pins that the
// engine's attention gives, or float32 does not hold a score.
void ExpectRefusalIsRight(PagedSequence& sequence, const Policy& policy, int64_t k, const absl::Status& status);

// One layer's running scores as an engine gives them.
void ExpectRunningIsRight(PagedSequence& sequence, const Policy& policy, int64_t k, int32_t layer,
                          std::span<const float> running);

// Norms of the policy's kind are cached for every resident.
void ExpectNorms(PagedSequence& sequence, const Policy& policy);

// All that two plans hold is the same.
void ExpectSamePlan(const Plan& a, const Plan& b);

// Tokens that sinks, recent tokens and classes protect with a budget of k, of all units; and all residents.
int64_t ProtectedTokens(const PlainSequence& plain, const Policy& policy, int64_t k);
int64_t Residents(const PlainSequence& plain);

}  // namespace kvsteward::engine
