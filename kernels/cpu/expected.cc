#include "kernels/cpu/expected.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numbers>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/quadratic.h"
#include "kernels/cpu/tiles.h"
#include "kernels/policy/row.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr size_t kPackedBytes = size_t{2} << 20;  // packed covariances held at a time, but at least one
constexpr int32_t kTaskKeys = 32 * kTileKeys;

// One query head of each kv head of a batch, while it is scored.
struct Head {
  int32_t index = 0;  // of the kv head
  const UnitView* unit = nullptr;
  float* scores = nullptr;  // [length]
  int32_t sinks = 0;        // residents
  std::vector<float> linear;
  std::vector<float> panels;
  absl::Status packed;
  double factor = 0;  // 1 / sum of exponentials
  float max = 0;
};

struct Task {
  Head* head = nullptr;
  Chunk keys;
  bool finite = true;
  float max = -FLT_MAX;
  double sum = 0;
};

class ExpectedScorer {
 public:
  ExpectedScorer(const SequenceView& sequence, const Policy& policy, int32_t layer, int32_t member, ThreadPool& threads)
      : sequence_(sequence), policy_(policy), layer_(layer), member_(member), threads_(threads) {
    for (int i = 0; i < threads.threads(); ++i) scratch_.emplace_back(sequence.geometry.head_dim, 1, false);
  }

  // Of kv heads [first, first + heads.size()), whose `scores` are set.
  absl::Status Score(std::span<Head> heads) {
    std::vector<Task> tasks;
    for (Head& head : heads) {
      for (int64_t begin = 0; begin < head.unit->length; begin += kTaskKeys) {
        const auto end = static_cast<int32_t>(std::min<int64_t>(head.unit->length, begin + kTaskKeys));
        tasks.push_back({&head, {&sequence_.geometry, &sequence_.pool, head.unit, static_cast<int32_t>(begin), end}});
      }
    }
    const auto count = static_cast<int64_t>(tasks.size());
    threads_.ParallelFor(static_cast<int64_t>(heads.size()),
                         [&](int64_t i, int) { Pack(heads[static_cast<size_t>(i)]); });
    for (const Head& head : heads) {
      if (!head.packed.ok()) return head.packed;
    }
    threads_.ParallelFor(count, [&](int64_t i, int worker) { Evaluate(tasks[static_cast<size_t>(i)], worker); });
    if (sequence_.stopped()) return Stopped();
    for (const Task& task : tasks) {
      if (task.finite) continue;
      if (absl::Status status = FindBad(task); !status.ok()) return status;
    }
    for (Head& head : heads) head.max = -FLT_MAX;
    for (const Task& task : tasks) task.head->max = std::max(task.head->max, task.max);
    threads_.ParallelFor(count, [&](int64_t i, int) { Exponentiate(tasks[static_cast<size_t>(i)]); });
    std::vector<double> sums(heads.size());
    for (const Task& task : tasks) sums[static_cast<size_t>(task.head - heads.data())] += task.sum;
    for (size_t i = 0; i < heads.size(); ++i) heads[i].factor = sums[i] > 0 ? 1 / sums[i] : 0;
    threads_.ParallelFor(count, [&](int64_t i, int) { Normalise(tasks[static_cast<size_t>(i)]); });
    return sequence_.stopped() ? Stopped() : absl::OkStatus();
  }

  int32_t Batch() const {
    const size_t bytes = PanelFloats(sequence_.geometry.head_dim) * sizeof(float);
    return static_cast<int32_t>(
        std::clamp<size_t>(kPackedBytes / bytes, 1, static_cast<size_t>(sequence_.geometry.kv_heads)));
  }

 private:
  static absl::Status Stopped() { return absl::CancelledError("scoring was stopped within a layer"); }

  absl::Status BadMoment(std::string_view tensor, int32_t query_head, size_t index) const {
    return absl::InvalidArgumentError(absl::StrCat(std::string(tensor), ": layer ", layer_, ", query head ", query_head,
                                                   ", index ", index,
                                                   " is NaN, infinite or overflows float32; submit a finite number"));
  }

  // m and C as one quadratic form whose value is the exponent of 2.
  void Pack(Head& head) const {
    const auto dim = static_cast<size_t>(sequence_.geometry.head_dim);
    const int32_t query_head = head.index * sequence_.geometry.group() + member_;
    const size_t at = static_cast<size_t>(layer_) * static_cast<size_t>(sequence_.geometry.query_heads) + query_head;
    const float* mean = &sequence_.inputs.query_mean[at * dim];
    const float* covariance = &sequence_.inputs.query_covariance[at * dim * dim];
    const double of_mean = std::numbers::log2e / std::sqrt(static_cast<double>(dim));
    const double of_covariance = std::numbers::log2e / (2 * static_cast<double>(dim));

    head.linear.assign((dim + kPanelRows - 1) / kPanelRows * kPanelRows, 0.0f);
    head.panels.assign(PanelFloats(static_cast<int32_t>(dim)), 0.0f);
    for (size_t x = 0; x < dim; ++x) {
      head.linear[x] = static_cast<float>(mean[x] * of_mean);
      if (!std::isfinite(head.linear[x])) head.packed = BadMoment("query_mean", query_head, x);
    }
    float* panel = head.panels.data();
    for (size_t first = 0; first < dim; first += kPanelRows) {
      for (size_t row = first; row < std::min<size_t>(first + kPanelRows, dim); ++row) {
        for (size_t column = row; column < dim; ++column) {
          const double both = column == row ? covariance[row * dim + row]
                                            : double{covariance[row * dim + column]} + covariance[column * dim + row];
          const auto packed = static_cast<float>(both * of_covariance);
          panel[(column - first) * kPanelRows + row - first] = packed;
          if (head.packed.ok() && !std::isfinite(packed)) {
            const bool other = std::isfinite(covariance[row * dim + column]);
            head.packed = BadMoment("query_covariance", query_head, other ? column * dim + row : row * dim + column);
          }
        }
      }
      panel += (dim - first) * kPanelRows;
    }

    head.sinks = SinksOf(*head.unit);
  }

  // How many residents are sinks: the first ones, as positions ascend.
  int32_t SinksOf(const UnitView& unit) const {
    int32_t low = 0;
    int32_t high = unit.length;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (PositionOf(unit, sequence_.pool, middle) < policy_.protect.sinks) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  void Evaluate(Task& task, int worker) {
    if (sequence_.stopped()) return;
    const Head& head = *task.head;
    float* x = head.scores + task.keys.begin;
    task.finite =
        QuadraticChunk({head.linear.data(), head.panels.data()}, task.keys, scratch_[static_cast<size_t>(worker)], x);
    for (int32_t j = std::max(task.keys.begin, head.sinks); j < task.keys.end; ++j) {
      task.max = std::max(task.max, head.scores[j]);
    }
  }

  // Why a value is not finite; OK if only those of sinks are not, which are not used.
  absl::Status FindBad(const Task& task) const {
    const Geometry& geometry = sequence_.geometry;
    RowCursor cursor(task.keys.unit->row, static_cast<uint32_t>(task.keys.begin / kBlockTokens));
    for (int32_t j = task.keys.begin; j < task.keys.end; ++j) {
      const auto slot = static_cast<size_t>(j % kBlockTokens);
      const std::byte* key = sequence_.pool.keys(cursor.block()) + slot * geometry.token_bytes();
      for (int32_t x = 0; x < geometry.head_dim; ++x) {
        if (!std::isfinite(Element(geometry.dtype, key, static_cast<size_t>(x)))) {
          return BadKey(layer_, task.head->index, j);
        }
      }
      if (j >= task.head->sinks && !std::isfinite(task.head->scores[j])) {
        return absl::InvalidArgumentError(
            absl::StrCat("query_mean, query_covariance and keys: the expected logit of layer ", layer_, ", query head ",
                         task.head->index * geometry.group() + member_, " at index ", j,
                         " overflows float32; submit smaller numbers"));
      }
      if (slot == kBlockTokens - 1) cursor.Next();
    }
    return absl::OkStatus();
  }

  void Exponentiate(Task& task) const {
    for (int32_t j = std::max(task.keys.begin, task.head->sinks); j < task.keys.end; ++j) {
      float& x = task.head->scores[j];
      x = std::exp2(x - task.head->max);
      task.sum += x;
    }
  }

  void Normalise(const Task& task) const {
    const Head& head = *task.head;
    for (int32_t j = task.keys.begin; j < task.keys.end; ++j) {
      const auto score = j < head.sinks ? 0.0f : static_cast<float>(head.scores[j] * head.factor);
      head.scores[j] = score < kLeastScore ? 0.0f : score;
    }
  }

  const SequenceView& sequence_;
  const Policy& policy_;
  const int32_t layer_;
  const int32_t member_;
  ThreadPool& threads_;
  std::vector<Scratch> scratch_;  // [threads]
};

}  // namespace

absl::Status ScoreExpected(const SequenceView& sequence, const Policy& policy, int32_t layer, int32_t member,
                           ThreadPool& threads, std::span<float> scores) {
  const int32_t kv_heads = sequence.geometry.kv_heads;
  ExpectedScorer scorer(sequence, policy, layer, member, threads);
  float* next = scores.data();
  std::vector<Head> heads;
  for (int32_t first = 0; first < kv_heads; first += static_cast<int32_t>(heads.size())) {
    heads.clear();
    heads.resize(static_cast<size_t>(std::min(scorer.Batch(), kv_heads - first)));
    for (size_t i = 0; i < heads.size(); ++i) {
      heads[i].index = first + static_cast<int32_t>(i);
      heads[i].unit = &sequence.units[static_cast<size_t>(layer) * kv_heads + heads[i].index];
      heads[i].scores = next;
      next += heads[i].unit->length;
    }
    if (absl::Status status = scorer.Score(heads); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::engine::cpu
