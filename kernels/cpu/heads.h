// Folding rows of scores over heads. Stateless.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Folds the scores of one of `heads` heads into `into`, that of the first of them by overwriting it.
void FoldHead(Group::Kind kind, int32_t head, int32_t heads, std::span<const float> scores, std::span<float> into);

// Makes each of the `heads` rows of `rows`, one after the other and of equal length, what they are together.
void JoinHeads(Group::Kind kind, int32_t heads, ThreadPool& threads, std::span<float> rows);

}  // namespace kvsteward::engine::cpu
