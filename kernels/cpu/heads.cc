#include "kernels/cpu/heads.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr size_t kTaskTokens = 1024;

}  // namespace

void FoldHead(Group::Kind kind, int32_t head, int32_t heads, std::span<const float> scores, std::span<float> into) {
  const float weight = kind == Group::Kind::kMean ? 1.0f / static_cast<float>(heads) : 1.0f;
  for (size_t j = 0; j < scores.size(); ++j) {
    const float score = scores[j] * weight;
    if (head == 0) {
      into[j] = score;
    } else {
      into[j] = kind == Group::Kind::kMax ? std::max(into[j], score) : into[j] + score;
    }
  }
}

void JoinHeads(Group::Kind kind, int32_t heads, ThreadPool& threads, std::span<float> rows) {
  const size_t length = rows.size() / static_cast<size_t>(heads);
  const auto tasks = static_cast<int64_t>((length + kTaskTokens - 1) / kTaskTokens);
  threads.ParallelFor(tasks, [&](int64_t task, int) {
    const size_t begin = static_cast<size_t>(task) * kTaskTokens;
    const size_t count = std::min(kTaskTokens, length - begin);
    double joined[kTaskTokens] = {};
    for (int32_t head = 0; head < heads; ++head) {
      const float* row = &rows[static_cast<size_t>(head) * length + begin];
      for (size_t i = 0; i < count; ++i) {
        joined[i] = kind == Group::Kind::kMax ? std::max(joined[i], double{row[i]}) : joined[i] + row[i];
      }
    }
    const double divisor = kind == Group::Kind::kMean ? heads : 1;
    for (int32_t head = 0; head < heads; ++head) {
      float* row = &rows[static_cast<size_t>(head) * length + begin];
      for (size_t i = 0; i < count; ++i) row[i] = static_cast<float>(joined[i] / divisor);
    }
  });
}

}  // namespace kvsteward::engine::cpu
