#include "kernels/cpu/attention.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/row_weights.h"
#include "kernels/cpu/side_array.h"
#include "kernels/cpu/tiles.h"
#include "kernels/policy/fields.h"

namespace kvsteward::engine::cpu {
namespace {

static_assert(kMaxRowPool <= kMostRowPool, "a policy's row pool fits a tile's history");

constexpr size_t kPackedBytes = size_t{2} << 20;  // packed queries held at a time, but at least one kv head's

// One kv head of the layer while it is scored.
struct Head {
  int32_t index = 0;
  const UnitView* unit = nullptr;
  Columns columns;
  std::vector<float> by_head;    // [group][length] if the heads are grouped later
  std::vector<uint8_t> classes;  // [length] if classes are told apart
  PackedRows packed;
  std::vector<uint8_t> finite;  // [chunks]
  Normalisers normalisers;
  Normalisers pooled;              // of the powers, if rows of them are pooled
  std::vector<float> power_scale;  // [rows], likewise
  RowWeights weights;
};

// A head's chunk: a task.
struct Task {
  Head* head = nullptr;
  int32_t chunk = 0;
};

class LayerScorer {
 public:
  LayerScorer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
              std::span<const CandidateSet> candidates, ThreadPool& threads, const AttentionOutput& output)
      : used_(sequence, policy, k, layer),
        sequence_(sequence),
        policy_(policy),
        candidates_(candidates),
        threads_(threads),
        output_(output),
        rows_(used_.in_head()),
        chunk_keys_(ChunkKeys(rows_)) {
    const bool pools = policy.accumulate.row_pool > 1;
    for (int i = 0; i < threads.threads(); ++i) scratch_.emplace_back(sequence.geometry.head_dim, rows_, pools);
    MarkSegments();
  }

  absl::Status Score() {
    const int32_t kv_heads = sequence_.geometry.kv_heads;
    size_t offset = 0;
    std::vector<Head> heads;
    for (int32_t first = 0; first < kv_heads; first += static_cast<int32_t>(heads.size())) {
      heads.clear();
      heads.resize(static_cast<size_t>(std::min(Batch(), kv_heads - first)));
      for (size_t i = 0; i < heads.size(); ++i) {
        heads[i].index = first + static_cast<int32_t>(i);
        heads[i].unit = &used_.Unit(heads[i].index);
        SetColumns(heads[i], offset);
        offset += static_cast<size_t>(heads[i].unit->length);
      }
      absl::Status status = ScoreHeads(heads);
      if (!status.ok()) return status;
      for (Head& head : heads) {
        if (!AfterRefine()) continue;
        status = output_.on_head(head.index, head.by_head);
        if (!status.ok()) return status;
      }
    }
    return absl::OkStatus();
  }

 private:
  bool AfterRefine() const { return policy_.group.place == Group::Place::kAfterRefine; }
  bool Classes() const { return !output_.cross.empty(); }
  bool PoolsPowers() const { return policy_.signal.kind == Signal::Kind::kPower && policy_.accumulate.row_pool > 1; }

  // kv heads that are scored at a time: so many that their packed queries are not much, but that every thread has one,
  // and that ungrouped scores are no more than the kv heads' scores.
  int32_t Batch() const {
    const Geometry& geometry = sequence_.geometry;
    const size_t head_bytes = static_cast<size_t>(rows_) * static_cast<size_t>(geometry.head_dim) * 4;
    const int32_t most = AfterRefine() ? std::max(1, geometry.kv_heads / geometry.group()) : geometry.kv_heads;
    const size_t wanted = std::max(kPackedBytes / head_bytes, static_cast<size_t>(threads_.threads()));
    return static_cast<int32_t>(std::min(wanted, static_cast<size_t>(most)));
  }

  void MarkSegments() {
    for (int32_t row = 0; row < rows_; ++row) {
      uint8_t row_class = 0;
      if (Classes()) row_class = sequence_.inputs.classes[static_cast<size_t>(used_.PositionAt(row))];
      const bool goes_on = row % used_.count != 0 && row_class == segments_.back().row_class;
      if (!goes_on) segments_.push_back({row, row_class});
      segments_.back().end = row + 1;
    }
  }

  // `offset`: the head's in the layer's arrays.
  void SetColumns(Head& head, size_t offset) const {
    const auto length = static_cast<size_t>(head.unit->length);
    if (AfterRefine()) {
      head.by_head.resize(length * static_cast<size_t>(sequence_.geometry.group()));
      head.columns.by_head = head.by_head.data();
    } else {
      head.columns.scores = output_.scores.data() + offset;
    }
    if (!output_.attention.empty()) head.columns.attention = output_.attention.data() + offset;
    if (!Classes()) return;
    std::vector<int32_t> positions(length);
    LoadPositions(sequence_.pool, *head.unit, positions);
    for (const int32_t position : positions) {
      head.classes.push_back(sequence_.inputs.classes[static_cast<size_t>(position)]);
    }
    head.columns.cross = output_.cross.data() + offset;
    head.columns.self = output_.self.data() + offset;
    head.columns.classes = head.classes.data();
  }

  absl::Status ScoreHeads(std::span<Head> heads) {
    std::vector<Task> tasks;
    for (Head& head : heads) {
      const auto chunks = static_cast<int32_t>((int64_t{head.unit->length} + chunk_keys_ - 1) / chunk_keys_);
      for (int32_t chunk = 0; chunk < chunks; ++chunk) tasks.push_back({&head, chunk});
      head.finite.assign(static_cast<size_t>(chunks), 1);
    }
    const auto of_head = [&](auto step) {
      threads_.ParallelFor(static_cast<int64_t>(heads.size()),
                           [&](int64_t i, int) { (this->*step)(heads[static_cast<size_t>(i)]); });
    };
    const auto of_task = [&](auto step) {
      threads_.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int worker) {
        if (!sequence_.stopped()) (this->*step)(tasks[static_cast<size_t>(i)], scratch_[static_cast<size_t>(worker)]);
      });
    };
    of_head(&LayerScorer::Pack);
    of_task(&LayerScorer::Reduce);
    absl::Status status = FindBad(heads);
    if (!status.ok()) return status;
    if (PoolsPowers()) of_task(&LayerScorer::ReducePowers);
    if (sequence_.stopped()) return Stopped();
    of_head(&LayerScorer::Weigh);
    of_task(&LayerScorer::Fill);
    return sequence_.stopped() ? Stopped() : absl::OkStatus();
  }

  static absl::Status Stopped() { return absl::CancelledError("scoring was stopped within a layer"); }

  void Pack(Head& head) const {
    const bool all = policy_.signal.over == Signal::Over::kVisible;
    head.packed.Pack(used_, head.index, all ? nullptr : &candidates_[static_cast<size_t>(head.index)]);
    const auto rows = static_cast<size_t>(rows_);
    head.normalisers.Resize(head.finite.size(), rows);
    if (!PoolsPowers()) return;
    head.pooled.Resize(head.finite.size(), rows);
    head.power_scale = PowerScale(head.packed.rows(), policy_.signal);
  }

  Chunk ChunkOf(const Task& task) const {
    const int32_t begin = task.chunk * chunk_keys_;
    const auto end = static_cast<int32_t>(std::min<int64_t>(task.head->unit->length, int64_t{begin} + chunk_keys_));
    return {&sequence_.geometry, &sequence_.pool, task.head->unit, begin, end};
  }

  void Reduce(const Task& task, Scratch& scratch) const {
    Head& head = *task.head;
    const size_t at = static_cast<size_t>(task.chunk) * static_cast<size_t>(rows_);
    head.finite[static_cast<size_t>(task.chunk)] =
        ReduceChunk(head.packed.rows(), ChunkOf(task), scratch, &head.normalisers.max[at], &head.normalisers.sum[at]);
  }

  void ReducePowers(const Task& task, Scratch& scratch) const {
    Head& head = *task.head;
    const size_t at = static_cast<size_t>(task.chunk) * static_cast<size_t>(rows_);
    QueryRows rows = head.packed.rows();
    rows.scale = head.power_scale.data();
    ReduceChunk(rows, ChunkOf(task), scratch, &head.pooled.max[at], &head.pooled.sum[at]);
  }

  absl::Status FindBad(std::span<Head> heads) const {
    if (sequence_.stopped()) return Stopped();  // before what was not reduced is looked at
    for (Head& head : heads) {
      for (size_t chunk = 0; chunk < head.finite.size(); ++chunk) {
        if (head.finite[chunk]) continue;
        if (sequence_.stopped()) return Stopped();
        const Chunk keys = ChunkOf({&head, static_cast<int32_t>(chunk)});
        absl::Status status =
            FindBadNumber(sequence_, used_.layer, head.index, head.packed.rows(), used_.first, keys.begin, keys.end);
        if (!status.ok()) return status;
      }
    }
    return absl::OkStatus();
  }

  void Weigh(Head& head) const {
    head.weights = WeighRows(used_, head.index, head.packed.rows(), head.normalisers, head.pooled);
  }

  void Fill(const Task& task, Scratch& scratch) const {
    const Head& head = *task.head;
    const bool mean = policy_.accumulate.kind == Accumulate::Kind::kMean;
    const bool mean_heads = policy_.group.kind == Group::Kind::kMean && !AfterRefine();
    const double rows = mean ? used_.count : 1;
    const double heads = mean_heads ? sequence_.geometry.group() : 1;
    Fold fold;
    if (policy_.accumulate.kind == Accumulate::Kind::kMax) fold.rows = Fold::Rows::kMax;
    if (policy_.accumulate.kind == Accumulate::Kind::kMeanVar) fold.rows = Fold::Rows::kMeanVar;
    fold.row_pool = policy_.accumulate.row_pool;
    fold.gamma = static_cast<float>(static_cast<double>(policy_.accumulate.gamma_ppm) / (kPpm * double{kWeightUnit}));
    fold.max_heads = policy_.group.kind == Group::Kind::kMax;
    fold.segments = segments_;
    fold.least = static_cast<float>(double{kLeastScore} * kWeightUnit * rows);
    fold.factor = static_cast<float>(1 / (kWeightUnit * rows * heads));
    fold.attention_factor = static_cast<float>(1 / (double{kWeightUnit} * rows_));
    fold.scale = head.weights.scale.data();
    fold.max = head.weights.max.data();
    fold.weight = head.weights.weight.data();
    fold.share = head.weights.share.data();
    FoldChunk(head.packed.rows(), ChunkOf(task), fold, scratch, head.columns);
  }

  const UsedRows used_;
  const SequenceView& sequence_;
  const Policy& policy_;
  const std::span<const CandidateSet> candidates_;
  ThreadPool& threads_;
  const AttentionOutput& output_;
  const int32_t rows_;  // query rows of a kv head
  const int32_t chunk_keys_;
  std::vector<Segment> segments_;
  std::vector<Scratch> scratch_;  // [threads]
};

}  // namespace

int32_t ChunkKeys(int32_t rows) {
  constexpr int64_t kLeastTiles = 32;
  const int64_t tiles = std::max<int64_t>(kLeastTiles, (int64_t{3} * rows + kTileKeys - 1) / kTileKeys);
  return static_cast<int32_t>(std::min<int64_t>(tiles, INT32_MAX / kTileKeys) * kTileKeys);
}

absl::Status ScoreAttention(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                            std::span<const CandidateSet> candidates, ThreadPool& threads,
                            const AttentionOutput& output) {
  if (UsedRows(sequence, policy, k, layer).count == 0) {  // a running policy has seen them all
    std::ranges::fill(output.scores, 0.0f);
    return absl::OkStatus();
  }
  return LayerScorer(sequence, policy, k, layer, candidates, threads, output).Score();
}

}  // namespace kvsteward::engine::cpu
