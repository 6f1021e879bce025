#include "kernels/cpu/score_layer.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <span>
#include <string_view>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/expected.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/key_difference.h"
#include "kernels/cpu/norms.h"
#include "kernels/cpu/refine.h"
#include "kernels/cpu/side_array.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cpu/value_summary.h"
#include "kernels/plan/protect.h"

namespace kvsteward::engine::cpu {
namespace {

class LayerPass {
 public:
  LayerPass(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer, ThreadPool& threads,
            const Attend& attend)
      : attend_(attend),
        sequence_(sequence),
        policy_(policy),
        k_(k),
        layer_(layer),
        threads_(threads),
        heads_(sequence.geometry.kv_heads),
        units_(sequence.units.subspan(static_cast<size_t>(layer) * heads_, heads_)),
        offsets_(1, 0),
        candidates_(heads_) {
    for (const UnitView& unit : units_) offsets_.push_back(offsets_.back() + unit.length);
    threads_.ParallelFor(static_cast<int64_t>(heads_), [&](int64_t head, int) {
      candidates_[head] =
          Candidates(units_[static_cast<size_t>(head)], sequence.pool, sequence.inputs.classes, policy.protect, k);
    });
    int64_t protected_tokens = offsets_.back();
    for (const CandidateSet& candidates : candidates_) protected_tokens -= candidates.size();
    share_ = UniformShare(k, heads_, protected_tokens);
  }

  size_t Tokens() const { return static_cast<size_t>(offsets_.back()); }

  absl::Status Score(LayerScores* out) {
    out->offsets = offsets_;
    const auto size_if = [&](bool wanted, std::vector<float>* values) { values->resize(wanted ? Tokens() : 0); };
    const bool lists = policy_.select.kind == Select::Kind::kTwoLists;
    size_if(true, &out->scores);
    size_if(policy_.reads_attention(), &out->attention);
    size_if(lists, &out->cross);
    size_if(lists, &out->self);
    size_if(policy_.running(), &out->running);
    size_if(false, &out->projected);
    out->distance.clear();

    if (policy_.reads_norms()) {
      if (absl::Status status = FillNorms(sequence_, layer_, policy_.norm(), threads_); !status.ok()) return status;
    }
    const bool after = policy_.group.place == Group::Place::kAfterRefine;
    if (absl::Status status = after ? RefineThenGroup(out) : GroupThenRefine(out); !status.ok()) return status;
    for (int32_t head = 0; head < heads_; ++head) MarkProtected(candidates_[head], UnitOf(out->scores, head));

    if (policy_.reads_projected_norms()) {
      size_if(true, &out->projected);
      absl::Status status = CopyInput("projected_norms", sequence_.inputs.projected_norms, std::span(out->projected));
      if (!status.ok()) return status;
    }
    if (policy_.head.kind == HeadBudget::Kind::kSplit) {
      return SummaryDistances(sequence_, layer_, out->attention, threads_, &out->distance);
    }
    return absl::OkStatus();
  }

  // S = decay^m S + what the m rows from `observed` on add.
  absl::Status Accumulate(std::span<float> running) {
    const auto rows = std::ranges::count_if(sequence_.window.positions,
                                            [&](int32_t position) { return position >= sequence_.observed; });
    std::ranges::fill(running, 0.0f);
    if (rows > 0) {
      absl::Status status = MakeAttention(candidates_, {.scores = running});
      if (!status.ok()) return status;
      if (OverLayer()) JoinHeads(policy_.group.kind, heads_, threads_, running);
    }
    const double decay =
        std::pow(static_cast<double>(policy_.accumulate.decay_ppm) / double{kPpm}, static_cast<double>(rows));
    std::vector<int32_t> bad(heads_, -1);
    threads_.ParallelFor(heads_, [&](int64_t head, int) {
      const UnitView& unit = units_[static_cast<size_t>(head)];
      const std::span<float> scores = UnitOf(running, static_cast<int32_t>(head));
      std::vector<float> before(static_cast<size_t>(unit.scored));
      LoadSide<float>(sequence_.pool.running, unit, 0, before);
      for (size_t j = 0; j < scores.size(); ++j) {
        const double score = scores[j] + (j < before.size() ? decay * before[j] : 0.0);
        scores[j] = score < kLeastScore ? 0.0f : static_cast<float>(score);
        if (!(scores[j] <= FLT_MAX) && bad[head] < 0) bad[head] = static_cast<int32_t>(j);
      }
    });
    return CheckScores(bad);
  }

 private:
  absl::Status MakeAttention(std::span<const CandidateSet> candidates, const AttentionOutput& output) {
    if (attend_) return attend_(candidates, output);
    return ScoreAttention(sequence_, policy_, k_, layer_, candidates, threads_, output);
  }

  bool OverLayer() const { return policy_.group.span == Group::Span::kLayer; }

  std::span<float> UnitOf(std::span<float> all, int32_t head) const {
    return all.subspan(static_cast<size_t>(offsets_[head]), static_cast<size_t>(offsets_[head + 1] - offsets_[head]));
  }

  // [kv_heads]: of each, the first token whose score is not finite, or -1.
  absl::Status CheckScores(std::span<const int32_t> bad) const {
    for (size_t head = 0; head < bad.size(); ++head) {
      if (bad[head] >= 0) return BadScore(layer_, static_cast<int32_t>(head), bad[head]);
    }
    return absl::OkStatus();
  }

  // This layer's part of what a caller supplied for every resident.
  absl::Status CopyInput(std::string_view tensor, std::span<const float> input, std::span<float> out) const {
    size_t first = 0;
    for (const UnitView* unit = sequence_.units.data(); unit != units_.data(); ++unit) {
      first += static_cast<size_t>(unit->length);
    }
    std::ranges::copy(input.subspan(first, out.size()), out.begin());
    for (int32_t head = 0; head < heads_; ++head) {
      const std::span<const float> unit = UnitOf(out, head);
      const auto bad = std::ranges::find_if_not(unit, [](float value) { return value >= 0 && value <= FLT_MAX; });
      if (bad != unit.end()) return BadInput(tensor, layer_, head, static_cast<int32_t>(bad - unit.begin()));
    }
    return absl::OkStatus();
  }

  // The signal `none`: the newest token is worth most. Exact below 2^24; from there on neighbours share a float, and of
  // such ties the older wins. `recent: k - 4` leaves next to nothing to choose from, so streaming-llm does not mind.
  void CopyPositions(std::span<float> scores) const {
    threads_.ParallelFor(heads_, [&](int64_t head, int) {
      const UnitView& unit = units_[static_cast<size_t>(head)];
      std::vector<int32_t> positions(static_cast<size_t>(unit.length));
      LoadPositions(sequence_.pool, unit, positions);
      std::ranges::transform(positions, UnitOf(scores, static_cast<int32_t>(head)).begin(),
                             [](int32_t position) { return static_cast<float>(position); });
    });
  }

  // Stages 1 to 3 where the group comes first, within the kv heads.
  absl::Status Grouped(LayerScores* out) {
    switch (policy_.signal.kind) {
      case Signal::Kind::kNone:
        CopyPositions(out->scores);
        return absl::OkStatus();
      case Signal::Kind::kSubmitted:
        return CopyInput("scores", sequence_.inputs.scores, out->scores);
      case Signal::Kind::kKeyDifference:
        return ScoreKeyDifference(sequence_, layer_, threads_, out->scores);
      case Signal::Kind::kExpected:
        return ScoreExpected(sequence_, policy_, layer_, threads_, [&](int32_t head, std::span<float> scores) {
          FoldGroup(head, scores, out);
          return absl::OkStatus();
        });
      default:
        return MakeAttention(
            candidates_, {.scores = out->scores, .attention = out->attention, .cross = out->cross, .self = out->self});
    }
  }

  // Stage 3 within a kv head: `scores` [group][length].
  void FoldGroup(int32_t head, std::span<const float> scores, LayerScores* out) const {
    const int32_t group = sequence_.geometry.group();
    const size_t length = scores.size() / static_cast<size_t>(group);
    for (int32_t member = 0; member < group; ++member) {
      FoldHead(policy_.group.kind, member, group, scores.subspan(static_cast<size_t>(member) * length, length),
               UnitOf(out->scores, head));
    }
  }

  absl::Status GroupThenRefine(LayerScores* out) {
    if (policy_.running()) {
      if (absl::Status status = Accumulate(out->running); !status.ok()) return status;
      out->scores = out->running;
    } else {
      if (absl::Status status = Grouped(out); !status.ok()) return status;
      if (OverLayer()) Join(out);
    }
    if (policy_.protect.mass_ppm > 0) {
      threads_.ParallelFor(heads_, [&](int64_t head, int) { Pin(static_cast<int32_t>(head), out->attention); });
    }
    const Refiner refiner(sequence_, policy_, layer_, share_, threads_);
    const int32_t rows = OverLayer() ? 1 : heads_;  // with the group over the layer all units' scores are equal
    std::vector<int32_t> bad(rows, -1);
    threads_.ParallelFor(rows, [&](int64_t task, int) {
      const auto head = static_cast<int32_t>(task);
      bad[head] = refiner.Refine(head, candidates_[head], UnitOf(out->scores, head));
    });
    for (int32_t head = rows; head < heads_; ++head) {
      std::ranges::copy(UnitOf(out->scores, 0), UnitOf(out->scores, head).begin());
    }
    return CheckScores(bad);
  }

  absl::Status RefineThenGroup(LayerScores* out) {
    const bool pins = policy_.protect.mass_ppm > 0;
    std::span<float> attention = out->attention;
    const std::vector<CandidateSet> unpinned = candidates_;  // what `over: candidates` is over
    if (pins && OverLayer()) {  // pins come before the refinements, and need the attention of all heads
      absl::Status status = MakeAttention(
          candidates_, {.attention = attention, .on_head = [](int32_t, std::span<float>) { return absl::OkStatus(); }});
      if (!status.ok()) return status;
      JoinHeads(Group::Kind::kMean, heads_, threads_, attention);
      for (int32_t head = 0; head < heads_; ++head) Pin(head, attention);
      attention = {};
    }
    const Refiner refiner(sequence_, policy_, layer_, share_, threads_);
    const auto on_head = [&](int32_t head, std::span<float> scores) {
      if (pins && !OverLayer()) Pin(head, attention);
      const auto group = static_cast<size_t>(sequence_.geometry.group());
      const size_t length = scores.size() / group;
      std::vector<int32_t> bad(group, -1);
      threads_.ParallelFor(static_cast<int64_t>(group), [&](int64_t member, int) {
        bad[member] =
            refiner.Refine(head, candidates_[head], scores.subspan(static_cast<size_t>(member) * length, length));
      });
      const auto first_bad = std::ranges::find_if(bad, [](int32_t token) { return token >= 0; });
      if (first_bad != bad.end()) return BadScore(layer_, head, *first_bad);
      FoldGroup(head, scores, out);
      return absl::OkStatus();
    };
    absl::Status status = policy_.signal.kind == Signal::Kind::kExpected
                              ? ScoreExpected(sequence_, policy_, layer_, threads_, on_head)
                              : MakeAttention(unpinned, {.attention = attention, .on_head = on_head});
    if (!status.ok()) return status;
    if (OverLayer()) JoinHeads(policy_.group.kind, heads_, threads_, out->scores);
    return CheckScores(NotFinite(out->scores));
  }

  // With the group over the layer: what the kv heads have together.
  void Join(LayerScores* out) {
    JoinHeads(policy_.group.kind, heads_, threads_, out->scores);
    if (!out->attention.empty()) JoinHeads(Group::Kind::kMean, heads_, threads_, out->attention);
    if (out->cross.empty()) return;
    JoinHeads(policy_.group.kind, heads_, threads_, out->cross);
    JoinHeads(policy_.group.kind, heads_, threads_, out->self);
    for (size_t j = 0; j < Tokens(); ++j) out->scores[j] = out->cross[j] + out->self[j];
  }

  void Pin(int32_t head, std::span<float> attention) {
    PinByMass(UnitOf(attention, head), policy_.protect.mass_ppm, share_, &candidates_[head]);
  }

  // Of each unit the first candidate whose score is not finite, or -1.
  std::vector<int32_t> NotFinite(std::span<float> scores) const {
    std::vector<int32_t> bad(heads_, -1);
    for (int32_t head = 0; head < heads_; ++head) {
      const std::span<const float> unit = UnitOf(scores, head);
      ForEachStretch(candidates_[head], [&](int32_t begin, int32_t end) {
        for (int32_t j = begin; j < end && bad[head] < 0; ++j) {
          if (!(unit[static_cast<size_t>(j)] <= FLT_MAX)) bad[head] = j;
        }
      });
    }
    return bad;
  }

  static void MarkProtected(const CandidateSet& candidates, std::span<float> scores) {
    std::fill(scores.begin(), scores.begin() + candidates.begin, kProtected);
    std::fill(scores.begin() + candidates.end, scores.end(), kProtected);
    for (const int32_t hole : candidates.holes) scores[static_cast<size_t>(hole)] = kProtected;
  }

  const Attend& attend_;
  const SequenceView& sequence_;
  const Policy& policy_;
  const int64_t k_;
  const int32_t layer_;
  ThreadPool& threads_;
  const int32_t heads_;
  const std::span<const UnitView> units_;
  std::vector<int64_t> offsets_;          // [kv_heads + 1] of the units' residents
  std::vector<CandidateSet> candidates_;  // [kv_heads]
  int64_t share_ = 0;                     // floor(c)
};

}  // namespace

absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                        ThreadPool& threads, LayerScores* out, const Attend& attend) {
  return LayerPass(sequence, policy, k, layer, threads, attend).Score(out);
}

absl::Status AccumulateLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                             ThreadPool& threads, std::vector<float>* running, const Attend& attend) {
  LayerPass pass(sequence, policy, k, layer, threads, attend);
  running->resize(pass.Tokens());
  return pass.Accumulate(*running);
}

}  // namespace kvsteward::engine::cpu
