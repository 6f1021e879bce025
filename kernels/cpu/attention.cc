#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/tiles.h"
#include "kernels/policy/row.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr size_t kPackedBytes = size_t{2} << 20;  // packed queries held at a time, but at least one kv head's

// One kv head of the layer while it is scored.
struct Head {
  int32_t index = 0;
  const UnitView* unit = nullptr;
  float* scores = nullptr;  // [length]
  hwy::AlignedFreeUniquePtr<float[]> panels;
  hwy::AlignedFreeUniquePtr<uint16_t[]> amx;
  std::vector<float> scale;
  std::vector<int32_t> visible;
  QueryRows rows;

  std::vector<float> chunk_max;   // [chunks][count]
  std::vector<double> chunk_sum;  // [chunks][count]
  std::vector<uint8_t> finite;    // [chunks]
  std::vector<float> max;         // [count]
  std::vector<float> weight;      // [count]
};

// A head's chunk: a task.
struct Task {
  Head* head = nullptr;
  int32_t chunk = 0;
};

class LayerScorer {
 public:
  LayerScorer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer, ThreadPool& threads)
      : sequence_(sequence),
        policy_(policy),
        k_(k),
        layer_(layer),
        threads_(threads),
        rows_used_(std::min(policy.window, sequence.window.rows)),
        rows_(sequence.geometry.group() * rows_used_),
        chunk_keys_(ChunkKeys(rows_)) {
    for (int i = 0; i < threads.threads(); ++i) scratch_.emplace_back(sequence.geometry.head_dim, rows_);
  }

  // Scores kv heads [first, first + heads.size()), whose `scores` are set.
  absl::Status Score(std::span<Head> heads) {
    std::vector<Task> tasks;
    for (Head& head : heads) {
      const auto chunks = static_cast<int32_t>((int64_t{head.unit->length} + chunk_keys_ - 1) / chunk_keys_);
      for (int32_t chunk = 0; chunk < chunks; ++chunk) tasks.push_back({&head, chunk});
      head.finite.assign(static_cast<size_t>(chunks), 1);
    }
    const auto heads_count = static_cast<int64_t>(heads.size());
    const auto tasks_count = static_cast<int64_t>(tasks.size());
    threads_.ParallelFor(heads_count, [&](int64_t i, int) { Pack(heads[static_cast<size_t>(i)]); });
    threads_.ParallelFor(tasks_count, [&](int64_t i, int worker) { Reduce(tasks[static_cast<size_t>(i)], worker); });
    if (sequence_.stopped()) return Stopped();  // before what was not reduced is looked at
    for (Head& head : heads) {
      for (size_t chunk = 0; chunk < head.finite.size(); ++chunk) {
        if (head.finite[chunk]) continue;
        if (sequence_.stopped()) return Stopped();
        const Chunk keys = ChunkOf({&head, static_cast<int32_t>(chunk)});
        absl::Status status = FindBadNumber(sequence_, layer_, head.index, head.rows, FirstRow(), keys.begin, keys.end);
        if (!status.ok()) return status;
      }
    }
    threads_.ParallelFor(heads_count, [&](int64_t i, int) { Combine(heads[static_cast<size_t>(i)]); });
    threads_.ParallelFor(tasks_count, [&](int64_t i, int worker) { Fill(tasks[static_cast<size_t>(i)], worker); });
    if (sequence_.stopped()) return Stopped();
    return absl::OkStatus();
  }

  // kv heads whose packed queries are held at a time.
  int32_t Batch() const {
    const size_t head_bytes = static_cast<size_t>(rows_) * static_cast<size_t>(sequence_.geometry.head_dim) * 4;
    return static_cast<int32_t>(std::clamp<size_t>(kPackedBytes / head_bytes, 1, sequence_.geometry.kv_heads));
  }

 private:
  static absl::Status Stopped() { return absl::CancelledError("scoring was stopped within a layer"); }

  int32_t FirstRow() const { return sequence_.window.rows - rows_used_; }

  // g log2(e) / sqrt(d) of a query at `position`.
  float Scale(int32_t position) const {
    double gain = 1;
    if (policy_.signal.kind == Signal::Kind::kStepGainSoftmax) {
      const double ratio = (static_cast<double>(position) + 1) / static_cast<double>(k_);
      gain = std::max(static_cast<double>(policy_.signal.g_min_ppm) / double{kPpm},
                      std::sqrt(2 * std::log(std::max(1.0, ratio))));
    }
    return static_cast<float>(gain * std::numbers::log2e / std::sqrt(static_cast<double>(sequence_.geometry.head_dim)));
  }

  // How many residents have a position <= `position`.
  int32_t VisibleCount(const UnitView& unit, int32_t position) const {
    int32_t low = 0;
    int32_t high = unit.length;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (PositionOf(unit, sequence_.pool, middle) <= position) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // The numbers of query row `row` of the kv head.
  const std::byte* Query(const Head& head, int32_t row) const {
    const Geometry& geometry = sequence_.geometry;
    const WindowView& window = sequence_.window;
    const int32_t query_head = head.index * geometry.group() + row / rows_used_;
    const int32_t in_window = FirstRow() + row % rows_used_;
    const size_t in_layers =
        (static_cast<size_t>(layer_) * geometry.query_heads + query_head) * window.rows + in_window;
    return window.queries + in_layers * static_cast<size_t>(geometry.head_dim) * SizeOf(window.dtype);
  }

  // Packs the queries for AMX; false if they are not for it.
  bool PackAmx(Head& head) const {
    const int32_t dim = sequence_.geometry.head_dim;
    if (sequence_.window.dtype != DType::kBF16 || sequence_.geometry.dtype != DType::kBF16 || !AmxTakes(dim) ||
        !AmxAvailable()) {
      return false;
    }
    const auto used = static_cast<size_t>(rows_) * static_cast<size_t>(dim);
    const auto all = static_cast<size_t>((rows_ + kAmxRows - 1) / kAmxRows * kAmxRows) * static_cast<size_t>(dim);
    head.amx = hwy::AllocateAligned<uint16_t>(all);
    std::fill(head.amx.get() + used, head.amx.get() + all, uint16_t{0});
    for (int32_t row = 0; row < rows_; ++row) {
      std::memcpy(head.amx.get() + static_cast<size_t>(row) * dim, Query(head, row), static_cast<size_t>(dim) * 2);
    }
    if (AmxExact({head.amx.get(), used})) return true;
    head.amx.reset();
    return false;
  }

  void PackPanels(Head& head) const {
    const auto dim = static_cast<size_t>(sequence_.geometry.head_dim);
    const auto all = static_cast<size_t>((rows_ + kPanelRows - 1) / kPanelRows * kPanelRows) * dim;
    head.panels = hwy::AllocateAligned<float>(all);
    std::fill_n(head.panels.get(), all, 0.0f);
    for (int32_t row = 0; row < rows_; ++row) {
      float* to = head.panels.get() + static_cast<size_t>(row / kPanelRows) * dim * kPanelRows + row % kPanelRows;
      const std::byte* query = Query(head, row);
      for (size_t i = 0; i < dim; ++i) to[i * kPanelRows] = Element(sequence_.window.dtype, query, i);
    }
  }

  void Pack(Head& head) const {
    if (!PackAmx(head)) PackPanels(head);
    const auto count = static_cast<size_t>(rows_);
    head.scale.resize(count);
    head.visible.resize(count);
    head.chunk_max.resize(head.finite.size() * count);
    head.chunk_sum.resize(head.finite.size() * count);
    int32_t min_visible = head.unit->length;
    for (size_t row = 0; row < count; ++row) {
      const size_t in_head = row % static_cast<size_t>(rows_used_);
      const int32_t position = sequence_.window.positions[static_cast<size_t>(FirstRow()) + in_head];
      head.scale[row] = Scale(position);
      head.visible[row] = row == in_head ? VisibleCount(*head.unit, position) : head.visible[in_head];
      min_visible = std::min(min_visible, head.visible[row]);
    }
    head.rows = {sequence_.geometry.group(), rows_used_,     sequence_.geometry.head_dim, min_visible,
                 head.panels.get(),          head.amx.get(), head.scale.data(),           head.visible.data()};
  }

  Chunk ChunkOf(const Task& task) const {
    const int32_t begin = task.chunk * chunk_keys_;
    const int32_t end = std::min<int64_t>(task.head->unit->length, int64_t{begin} + chunk_keys_);
    return {&sequence_.geometry, &sequence_.pool, task.head->unit, begin, end};
  }

  void Reduce(const Task& task, int worker) {
    if (sequence_.stopped()) return;
    Head& head = *task.head;
    const size_t at = static_cast<size_t>(task.chunk) * static_cast<size_t>(rows_);
    head.finite[static_cast<size_t>(task.chunk)] = ReduceChunk(
        head.rows, ChunkOf(task), scratch_[static_cast<size_t>(worker)], &head.chunk_max[at], &head.chunk_sum[at]);
  }

  // The chunks' normalisers to the rows', in the chunks' order.
  void Combine(Head& head) const {
    const auto count = static_cast<size_t>(rows_);
    head.max.assign(count, 0.0f);
    head.weight.assign(count, 0.0f);
    for (size_t row = 0; row < count; ++row) {
      if (head.visible[row] == 0) continue;
      float max = -FLT_MAX;
      for (size_t at = row; at < head.chunk_max.size(); at += count) max = std::max(max, head.chunk_max[at]);
      double sum = 0;
      for (size_t at = row; at < head.chunk_max.size(); at += count) {
        sum += head.chunk_sum[at] * std::exp2(double{head.chunk_max[at]} - max);
      }
      head.max[row] = max;
      head.weight[row] = static_cast<float>(kWeightUnit / sum);
    }
  }

  void Fill(const Task& task, int worker) {
    if (sequence_.stopped()) return;
    const Head& head = *task.head;
    const double rows = policy_.accumulate == Accumulate::kMean ? rows_used_ : 1;
    const double heads = policy_.group == Group::kMean ? sequence_.geometry.group() : 1;
    const Fold fold{.max_rows = policy_.accumulate == Accumulate::kMax,
                    .max_heads = policy_.group == Group::kMax,
                    .least = static_cast<float>(double{kLeastScore} * kWeightUnit * rows),
                    .factor = static_cast<float>(1 / (kWeightUnit * rows * heads))};
    const Chunk chunk = ChunkOf(task);
    ScoreChunk(head.rows, chunk, fold, head.max.data(), head.weight.data(), scratch_[static_cast<size_t>(worker)],
               head.scores + chunk.begin);
  }

  const SequenceView& sequence_;
  const Policy& policy_;
  const int64_t k_;
  const int32_t layer_;
  ThreadPool& threads_;
  const int32_t rows_used_;
  const int32_t rows_;  // query rows of a kv head
  const int32_t chunk_keys_;
  std::vector<Scratch> scratch_;  // [threads]
};

}  // namespace

int32_t ChunkKeys(int32_t rows) {
  constexpr int64_t kLeastTiles = 32;
  const int64_t tiles = std::max<int64_t>(kLeastTiles, (int64_t{3} * rows + kTileKeys - 1) / kTileKeys);
  return static_cast<int32_t>(std::min<int64_t>(tiles, INT32_MAX / kTileKeys) * kTileKeys);
}

absl::Status ScoreAttention(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                            ThreadPool& threads, std::span<float> scores) {
  const int32_t kv_heads = sequence.geometry.kv_heads;
  LayerScorer scorer(sequence, policy, k, layer, threads);
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
    absl::Status status = scorer.Score(heads);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::engine::cpu
