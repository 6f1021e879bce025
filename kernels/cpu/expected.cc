#include "kernels/cpu/expected.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/quadratic.h"
#include "kernels/cpu/tiles.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr size_t kPackedBytes = size_t{2} << 20;  // packed covariances held at a time, but at least one kv head's
constexpr int32_t kTaskKeys = 32 * kTileKeys;

// One query head while it is scored: its m and C as one quadratic form whose value is the exponent of 2.
struct Member {
  std::vector<float> linear;
  std::vector<float> panels;
  std::vector<uint16_t> parts;
  float max = -FLT_MAX;
  double factor = 0;  // 1 / sum of exponentials
};

struct Head {
  int32_t index = 0;
  const UnitView* unit = nullptr;
  int32_t sinks = 0;            // residents
  std::vector<Member> members;  // [group]
  std::vector<Quadratic> forms;
  std::vector<float> scores;  // [group][length]
  absl::Status packed;
};

// A head's chunk.
struct Task {
  Head* head = nullptr;
  Chunk keys;
  bool finite = true;
  std::vector<float> max;   // [group]
  std::vector<double> sum;  // [group]

  // The scores of the chunk's residents that are no sinks.
  std::span<float> Scored(size_t member) const {
    const int32_t begin = std::min(std::max(keys.begin, head->sinks), keys.end);
    return std::span(head->scores)
        .subspan(member * static_cast<size_t>(head->unit->length) + static_cast<size_t>(begin),
                 static_cast<size_t>(keys.end - begin));
  }
};

class ExpectedScorer {
 public:
  ExpectedScorer(const SequenceView& sequence, const Policy& policy, int32_t layer, ThreadPool& threads)
      : sequence_(sequence),
        policy_(policy),
        layer_(layer),
        threads_(threads),
        group_(static_cast<size_t>(sequence.geometry.group())) {
    for (int i = 0; i < threads.threads(); ++i) scratch_.emplace_back(sequence.geometry.head_dim, 1, false);
  }

  // Scores kv heads, whose `index` is set.
  absl::Status Score(std::span<Head> heads) {
    threads_.ParallelFor(static_cast<int64_t>(heads.size()), [&](int64_t i, int) { Pack(heads[i]); });
    std::vector<Task> tasks;
    for (Head& head : heads) {
      if (!head.packed.ok()) return head.packed;
      for (int64_t begin = 0; begin < head.unit->length; begin += kTaskKeys) {
        const auto end = static_cast<int32_t>(std::min<int64_t>(head.unit->length, begin + kTaskKeys));
        tasks.push_back({.head = &head,
                         .keys = {&sequence_.geometry, &sequence_.pool, head.unit, static_cast<int32_t>(begin), end},
                         .max = std::vector<float>(group_, -FLT_MAX),
                         .sum = std::vector<double>(group_, 0)});
      }
    }
    const auto count = static_cast<int64_t>(tasks.size());
    threads_.ParallelFor(count, [&](int64_t i, int worker) { Evaluate(tasks[i], scratch_[worker]); });
    if (sequence_.stopped()) return absl::CancelledError("scoring was stopped within a layer");
    for (const Task& task : tasks) {
      if (task.finite) continue;
      if (absl::Status status = FindBad(task); !status.ok()) return status;
    }
    for (const Task& task : tasks) {
      for (size_t i = 0; i < group_; ++i) {
        task.head->members[i].max = std::max(task.head->members[i].max, task.max[i]);
      }
    }
    threads_.ParallelFor(count, [&](int64_t i, int) { Exponentiate(tasks[i]); });
    for (const Task& task : tasks) {  // in order
      for (size_t i = 0; i < group_; ++i) task.head->members[i].factor += task.sum[i];
    }
    for (Head& head : heads) {
      for (Member& member : head.members) member.factor = member.factor > 0 ? 1 / member.factor : 0;
    }
    threads_.ParallelFor(count, [&](int64_t i, int) { Normalise(tasks[i]); });
    return absl::OkStatus();
  }

  // kv heads that are scored at a time: so many that their packed covariances are not much, and that their query heads'
  // scores are no more than all kv heads' scores.
  int32_t Batch() const {
    const size_t bytes = group_ * PanelFloats(sequence_.geometry.head_dim) * sizeof(float);
    const size_t most = std::max<size_t>(1, static_cast<size_t>(sequence_.geometry.kv_heads) / group_);
    return static_cast<int32_t>(std::clamp<size_t>(kPackedBytes / bytes, 1, most));
  }

 private:
  absl::Status BadMoment(std::string_view tensor, int32_t query_head, size_t index) const {
    return absl::InvalidArgumentError(absl::StrCat(std::string(tensor), ": layer ", layer_, ", query head ", query_head,
                                                   ", index ", index,
                                                   " is NaN, infinite or overflows float32; submit a finite number"));
  }

  void Pack(Head& head) const {
    const Geometry& geometry = sequence_.geometry;
    head.unit = &sequence_.units[static_cast<size_t>(layer_) * geometry.kv_heads + head.index];
    head.sinks = SinksOf(*head.unit);
    head.scores.resize(group_ * static_cast<size_t>(head.unit->length));
    head.members.resize(group_);
    bool amx = geometry.dtype == DType::kBF16 && AmxTakes(geometry.head_dim) && AmxAvailable();
    for (size_t i = 0; i < group_; ++i) {
      Member& member = head.members[i];
      head.packed = PackMember(head.index * geometry.group() + static_cast<int32_t>(i), member);
      if (!head.packed.ok()) return;
      if (amx) member.parts = SplitPanels(geometry.head_dim, member.panels);
      amx = amx && !member.parts.empty();
    }
    for (const Member& member : head.members) {
      head.forms.push_back({member.linear.data(), member.panels.data(), amx ? member.parts.data() : nullptr});
    }
  }

  absl::Status PackMember(int32_t query_head, Member& member) const {
    const auto dim = static_cast<size_t>(sequence_.geometry.head_dim);
    const size_t at = static_cast<size_t>(layer_) * static_cast<size_t>(sequence_.geometry.query_heads) + query_head;
    const float* mean = &sequence_.inputs.query_mean[at * dim];
    const float* covariance = &sequence_.inputs.query_covariance[at * dim * dim];
    const double of_mean = std::numbers::log2e / std::sqrt(static_cast<double>(dim));
    const double of_covariance = std::numbers::log2e / (2 * static_cast<double>(dim));

    member.linear.assign((dim + kPanelRows - 1) / kPanelRows * kPanelRows, 0.0f);
    for (size_t x = 0; x < dim; ++x) {
      member.linear[x] = static_cast<float>(mean[x] * of_mean);
      if (!std::isfinite(member.linear[x])) return BadMoment("query_mean", query_head, x);
    }
    member.panels.assign(PanelFloats(static_cast<int32_t>(dim)), 0.0f);
    float* panel = member.panels.data();
    for (size_t first = 0; first < dim; panel += (dim - first) * kPanelRows, first += kPanelRows) {
      for (size_t row = first; row < std::min<size_t>(first + kPanelRows, dim); ++row) {
        for (size_t column = row; column < dim; ++column) {
          const float upper = covariance[row * dim + column];
          const float lower = column == row ? 0.0f : covariance[column * dim + row];
          const auto packed = static_cast<float>((double{upper} + lower) * of_covariance);
          panel[(column - first) * kPanelRows + row - first] = packed;
          if (std::isfinite(packed)) continue;
          return BadMoment("query_covariance", query_head,
                           std::isfinite(upper) ? column * dim + row : row * dim + column);
        }
      }
    }
    return absl::OkStatus();
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

  void Evaluate(Task& task, Scratch& scratch) const {
    if (sequence_.stopped()) return;
    Head& head = *task.head;
    task.finite = QuadraticChunk(head.forms, task.keys, scratch, head.scores.data() + task.keys.begin,
                                 static_cast<size_t>(head.unit->length));
    for (size_t i = 0; i < group_; ++i) {
      for (const float x : task.Scored(i)) task.max[i] = std::max(task.max[i], x);
    }
  }

  // Why a value is not finite; OK if only those of sinks are not, which are not used.
  absl::Status FindBad(const Task& task) const {
    const Geometry& geometry = sequence_.geometry;
    const Head& head = *task.head;
    RowCursor cursor(head.unit->row, static_cast<uint32_t>(task.keys.begin / kBlockTokens));
    for (int32_t j = task.keys.begin; j < task.keys.end; ++j) {
      const auto slot = static_cast<size_t>(j % kBlockTokens);
      const std::byte* key = sequence_.pool.keys(cursor.block()) + slot * geometry.token_bytes();
      for (int32_t x = 0; x < geometry.head_dim; ++x) {
        if (!std::isfinite(Element(geometry.dtype, key, static_cast<size_t>(x)))) return BadKey(layer_, head.index, j);
      }
      for (size_t i = 0; i < group_ && j >= head.sinks; ++i) {
        if (std::isfinite(head.scores[i * static_cast<size_t>(head.unit->length) + static_cast<size_t>(j)])) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("query_mean, query_covariance and keys: the expected logit of layer ", layer_, ", query head ",
                         static_cast<size_t>(head.index) * group_ + i, " at index ", j,
                         " overflows float32; submit smaller numbers"));
      }
      if (slot == kBlockTokens - 1) cursor.Next();
    }
    return absl::OkStatus();
  }

  void Exponentiate(Task& task) const {
    for (size_t i = 0; i < group_; ++i) {
      const float max = task.head->members[i].max;
      for (float& x : task.Scored(i)) {
        x = std::exp2(x - max);
        task.sum[i] += x;
      }
    }
  }

  void Normalise(const Task& task) const {
    const Head& head = *task.head;
    for (size_t i = 0; i < group_; ++i) {
      const std::span<float> scored = task.Scored(i);
      for (float& score : scored) {
        score = static_cast<float>(score * head.members[i].factor);
        score = score < kLeastScore ? 0.0f : score;
      }
      const auto sinks = static_cast<size_t>(task.keys.end - task.keys.begin) - scored.size();
      std::fill_n(scored.data() - sinks, sinks, 0.0f);
    }
  }

  const SequenceView& sequence_;
  const Policy& policy_;
  const int32_t layer_;
  ThreadPool& threads_;
  const size_t group_;
  std::vector<Scratch> scratch_;  // [threads]
};

}  // namespace

absl::Status ScoreExpected(const SequenceView& sequence, const Policy& policy, int32_t layer, ThreadPool& threads,
                           const std::function<absl::Status(int32_t kv_head, std::span<float> scores)>& on_head) {
  const int32_t kv_heads = sequence.geometry.kv_heads;
  ExpectedScorer scorer(sequence, policy, layer, threads);
  for (int32_t first = 0; first < kv_heads; first += scorer.Batch()) {
    std::vector<Head> heads(static_cast<size_t>(std::min(scorer.Batch(), kv_heads - first)));
    for (size_t i = 0; i < heads.size(); ++i) heads[i].index = first + static_cast<int32_t>(i);
    if (absl::Status status = scorer.Score(heads); !status.ok()) return status;
    for (Head& head : heads) {
      if (absl::Status status = on_head(head.index, head.scores); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::engine::cpu
