#include "kernels/cuda/device_eviction.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/cuda/bad_token.h"
#include "kernels/cuda/device_policy.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/window.h"
#include "kernels/plan/allot.h"
#include "kernels/plan/check.h"
#include "kernels/plan/protect.h"

namespace kvsteward::engine::cuda {
namespace {

// Keys of the layers that are planned in one go: bounds how long a step is, at a millisecond or so, and its memory.
constexpr uint64_t kRangeBytes = uint64_t{2} << 30;

}  // namespace

// What kernels leave for the host, one copy: [units] each.
struct RangeResults {
  std::span<int64_t> bad_norm;
  std::span<int64_t> bad_score;
  std::span<uint64_t> bad_refined;
  std::span<int32_t> kept;

  static size_t Words(size_t units) { return 3 * units + (units + 1) / 2; }
  // In `words`, on the host or on the device.
  RangeResults(uint64_t* words, size_t units)
      : bad_norm(reinterpret_cast<int64_t*>(words), units),
        bad_score(reinterpret_cast<int64_t*>(words) + units, units),
        bad_refined(words + 2 * units, units),
        kept(reinterpret_cast<int32_t*>(words + 3 * units), units) {}

  bool AllFinite() const {
    const auto good = [](int64_t bad) { return bad == kNoBadToken; };
    return std::ranges::all_of(bad_norm, good) && std::ranges::all_of(bad_score, good) &&
           std::ranges::all_of(bad_refined, [](uint64_t bad) { return bad == kNothingBad; });
  }
};

class DeviceEviction::Range {
 public:
  Range(DeviceEviction& eviction, const UnitRange& range)
      : eviction_(eviction),
        device_(*eviction.device_),
        sequence_(eviction.sequence_),
        range_(range),
        units_(eviction.made_->sequence.Units(range)),
        // With a budget over all units they are one layer.
        heads_(eviction.totals_.size() == 1 ? range.units : sequence_.geometry.kv_heads),
        steps_(RefineSteps(eviction.policy_)) {}

  absl::Status Plan() {
    KVS_RETURN_IF_ERROR(Allocate());
    KVS_RETURN_IF_ERROR(Score());
    KVS_RETURN_IF_ERROR(RefineAndSelect());
    return Fetch();
  }

  RangeResults results() const { return {results_, static_cast<size_t>(range_.units)}; }

  // Copies what was fetched into the plan. REQUIRES: the device has finished, all is finite.
  void Take(engine::Plan& plan) const {
    const auto first = static_cast<size_t>(range_.first_unit);
    const auto units = static_cast<size_t>(range_.units);
    std::ranges::copy(results().kept, plan.kept.begin() + range_.first_unit);
    if (mask_ != nullptr) {
      std::copy_n(mask_, MaskWords(), plan.mask.begin() + plan.mask_offsets[first]);
    }
    if (scores_ == nullptr) return;
    const auto kv_heads = static_cast<size_t>(sequence_.geometry.kv_heads);
    const float* next = scores_;
    for (size_t u = first; u < first + units; ++u) {
      LayerScores& layer = plan.scores[u / kv_heads];
      if (u % kv_heads == 0) layer.offsets.assign(1, 0);
      const auto length = static_cast<size_t>(sequence_.units[u].length);
      layer.scores.insert(layer.scores.end(), next, next + length);
      layer.offsets.push_back(static_cast<int64_t>(layer.scores.size()));
      next += length;
    }
  }

 private:
  size_t MaskWords() const {
    const std::vector<int64_t>& offsets = eviction_.plan_.mask_offsets;
    return static_cast<size_t>(offsets[static_cast<size_t>(range_.first_unit + range_.units)] -
                               offsets[static_cast<size_t>(range_.first_unit)]);
  }

  int32_t UsedRows() const {
    const int32_t rows = sequence_.window.rows;
    return eviction_.policy_.window == 0 ? rows : std::min(eviction_.policy_.window, rows);
  }

  DeviceUnits SelectUnits() const {
    DeviceUnits units = units_;
    units.kv_heads = heads_;
    return units;
  }

  // Everything but pointers.
  ScoreArgs Args() const {
    const Geometry& geometry = sequence_.geometry;
    ScoreArgs args;
    args.pool = eviction_.made_->sequence.pool();
    args.units = units_;
    args.head_dim = geometry.head_dim;
    args.group = geometry.group();
    args.dtype = geometry.dtype;
    args.query_dtype = sequence_.window.dtype;
    args.window_rows = args.rows = UsedRows();
    SetSignal(eviction_.policy_, &args);
    return args;
  }

  absl::Status Allocate() {
    const auto units = static_cast<size_t>(range_.units);
    const auto tokens = static_cast<size_t>(range_.tokens);
    const auto rows = static_cast<size_t>(UsedRows());
    const Geometry& geometry = sequence_.geometry;
    row_positions_ = image_.Add<int32_t>(rows);
    row_scale_ = image_.Add<float>(rows);
    totals_ = image_.Add<int64_t>(units / static_cast<size_t>(heads_));
    shares_ = image_.Add<int64_t>(eviction_.shares_.empty() ? 0 : units);
    list_offset_ = image_.Add<int64_t>(units / static_cast<size_t>(heads_) + 1);
    mask_offset_ = image_.Add<int64_t>(units);
    queries_ = image_.Room<std::byte>(QueryBytes(sequence_, range_.units / geometry.kv_heads, UsedRows()));
    raw_ = image_.Room<float>(tokens);
    refined_ = image_.Room<float>(tokens);
    device_mask_ = image_.Room<uint64_t>(MaskWords());
    device_results_ = image_.Room<uint64_t>(RangeResults::Words(units));
    workspace_ = image_.Room<std::byte>(
        std::max(ScoreWorkspaceBytes(Args(), UnitsWithinWorkspace(Args())), RefineWorkspaceBytes(units_)));
    select_workspace_ = image_.Room<std::byte>(SelectWorkspaceBytes(SelectUnits()));
    KVS_RETURN_IF_ERROR(image_.Allocate(eviction_.device_, "the scores of a sequence"));

    FillRows(sequence_, eviction_.policy_, eviction_.outline_.k, image_.host(row_positions_), image_.host(row_scale_));
    const auto group = static_cast<size_t>(range_.first_unit / heads_);
    std::copy_n(eviction_.totals_.begin() + static_cast<std::ptrdiff_t>(group), totals_.count,
                image_.host(totals_).begin());
    std::copy_n(eviction_.shares_.begin() + (shares_.count == 0 ? 0 : range_.first_unit), shares_.count,
                image_.host(shares_).begin());
    std::copy_n(eviction_.list_offset_.begin() + static_cast<std::ptrdiff_t>(group), list_offset_.count,
                image_.host(list_offset_).begin());
    const std::vector<int64_t>& offsets = eviction_.plan_.mask_offsets;
    for (size_t i = 0; i < units; ++i) {
      const auto first = static_cast<size_t>(range_.first_unit);
      image_.host(mask_offset_)[i] = offsets[first + i] - offsets[first];
    }
    KVS_RETURN_IF_ERROR(image_.Send(device_));
    return CopyQueries(device_, sequence_, range_.first_unit / geometry.kv_heads, range_.units / geometry.kv_heads,
                       UsedRows(), image_.on_device(queries_));
  }

  absl::Status Score() {
    const RangeResults results(image_.on_device(device_results_), static_cast<size_t>(range_.units));
    const DevicePool& pool = eviction_.made_->sequence.pool();
    KVS_RETURN_IF_ERROR(device_.Mark(0));
    KVS_RETURN_IF_ERROR(
        device_.Check(ResetBadTokens(results.bad_norm.data(), 2 * range_.units, device_.stream()), "scores"));
    if (eviction_.policy_.reads_norms()) {
      const bool squares = eviction_.policy_.norm() != Norm::kL1;
      KVS_RETURN_IF_ERROR(device_.Check(
          LaunchNorms(pool, units_, sequence_.geometry.head_dim, sequence_.geometry.dtype, squares,
                      eviction_.made_->sequence.Normed(range_), results.bad_norm.data(), device_.stream()),
          "value norms"));
    }
    ScoreArgs args = Args();
    args.queries = image_.on_device(queries_);
    args.positions = image_.on_device(row_positions_);
    args.scale = image_.on_device(row_scale_);
    args.scores = image_.on_device(raw_);
    args.bad = results.bad_score.data();
    KVS_RETURN_IF_ERROR(device_.Check(
        LaunchScore(args, UnitsWithinWorkspace(args), image_.on_device(workspace_), device_.stream()), "scores"));
    return device_.Mark(1);
  }

  absl::Status RefineAndSelect() {
    const RangeResults results(image_.on_device(device_results_), static_cast<size_t>(range_.units));
    const DeviceSequence& on_device = eviction_.made_->sequence;
    const Policy& policy = eviction_.policy_;
    const int64_t recent = Recent(policy.protect, eviction_.outline_.k);
    std::byte* const select_workspace = image_.on_device(select_workspace_);
    KVS_RETURN_IF_ERROR(device_.Check(ClearCounts(SelectUnits(), select_workspace, device_.stream()), "the selection"));
    KVS_RETURN_IF_ERROR(device_.Check(LaunchCandidates(on_device.pool(), units_, policy.protect.sinks, recent,
                                                       on_device.Candidates(range_), device_.stream()),
                                      "candidates"));
    KVS_RETURN_IF_ERROR(
        device_.Check(LaunchRefine(on_device.pool(), units_, on_device.Candidates(range_), steps_.data(),
                                   static_cast<int32_t>(steps_.size()), image_.on_device(raw_),
                                   image_.on_device(refined_), results.bad_refined.data(), image_.on_device(workspace_),
                                   device_.stream(), FirstCounts(SelectUnits(), select_workspace)),
                      "refinements"));
    const SelectRule rule{.kind = RuleKind(policy.head),
                          .alpha_ppm = policy.head.alpha_ppm,
                          .totals = image_.on_device(totals_),
                          .shares = eviction_.shares_.empty() ? nullptr : image_.on_device(shares_)};
    const Selected selected{.kept = results.kept.data(),
                            .mask = image_.on_device(device_mask_),
                            .mask_offset = image_.on_device(mask_offset_),
                            .list = reinterpret_cast<int32_t*>(eviction_.made_->lists.data()),
                            .list_offset = image_.on_device(list_offset_)};
    KVS_RETURN_IF_ERROR(device_.Check(LaunchSelect(SelectUnits(), rule, image_.on_device(refined_), selected,
                                                   select_workspace, device_.stream(), FirstDigit::kCounted),
                                      "the selection"));
    return device_.Mark(2);
  }

  absl::Status Fetch() {
    const size_t words = RangeResults::Words(static_cast<size_t>(range_.units));
    KVS_RETURN_IF_ERROR(Download(image_.on_device(device_results_), words, &results_));
    if (eviction_.wants_.masks) KVS_RETURN_IF_ERROR(Download(image_.on_device(device_mask_), MaskWords(), &mask_));
    if (eviction_.wants_.scores) {
      KVS_RETURN_IF_ERROR(Download(image_.on_device(refined_), static_cast<size_t>(range_.tokens), &scores_));
    }
    return absl::OkStatus();
  }

  template <class T>
  absl::Status Download(const T* from, size_t count, T** to) {
    absl::StatusOr<std::byte*> pinned = device_.Pinned(count * sizeof(T));
    if (!pinned.ok()) return pinned.status();
    *to = reinterpret_cast<T*>(*pinned);
    return device_.Check(cudaMemcpyAsync(*to, from, count * sizeof(T), cudaMemcpyDeviceToHost, device_.stream()),
                         "the copy of a plan");
  }

  DeviceEviction& eviction_;
  Device& device_;
  const SequenceView& sequence_;
  const UnitRange range_;
  const DeviceUnits units_;
  const int32_t heads_;  // that compete for one total
  const std::vector<RefineStep> steps_;

  Image image_;
  ImagePart<int32_t> row_positions_;
  ImagePart<float> row_scale_;
  ImagePart<int64_t> totals_, shares_, list_offset_, mask_offset_;
  ImagePart<std::byte> queries_, workspace_, select_workspace_;
  ImagePart<float> raw_, refined_;
  ImagePart<uint64_t> device_mask_, device_results_;

  // Pinned, after Fetch.
  uint64_t* results_ = nullptr;
  uint64_t* mask_ = nullptr;
  float* scores_ = nullptr;
};

absl::StatusOr<std::unique_ptr<Eviction>> DeviceEviction::Start(const std::shared_ptr<Device>& device,
                                                                const SequenceView& sequence, const Policy& policy,
                                                                const Budget& budget, PlanWants wants,
                                                                StartOnHost start_on_host) {
  KVS_RETURN_IF_ERROR(CheckEviction(sequence, policy));
  absl::StatusOr<int64_t> k = BudgetTokens(budget, sequence.geometry, sequence.seen);
  if (!k.ok()) return k.status();
  auto eviction =
      std::unique_ptr<DeviceEviction>(new DeviceEviction(device, sequence, policy, wants, std::move(start_on_host)));
  // Without a stored sink there is nothing to ask the device for, and a no-op needs nothing of it.
  absl::StatusOr<std::vector<int32_t>> candidates = eviction->CountCandidates(*k);
  if (!candidates.ok()) return candidates.status();
  eviction->unit_candidates_ = *std::move(candidates);
  eviction->outline_ = Outline::Of(sequence, *k, eviction->unit_candidates_);
  eviction->plan_ = EmptyPlan(sequence, eviction->outline_, wants.masks);
  eviction->plan_.on_host = false;
  if (eviction->outline_.no_op()) {
    KeepAll(eviction->plan_);
    return eviction;
  }
  KVS_RETURN_IF_ERROR(eviction->outline_.CheckProtected(policy));
  if (wants.scores) eviction->plan_.scores.resize(static_cast<size_t>(sequence.geometry.layers));
  eviction->DivideBudget();
  KVS_RETURN_IF_ERROR(eviction->UploadSequence());
  absl::StatusOr<DeviceArray> lists = DeviceArray::Allocate(
      device, static_cast<size_t>(eviction->list_offset_.back()) * sizeof(int32_t), "the plan of a sequence");
  if (!lists.ok()) return lists.status();
  eviction->made_->lists = *std::move(lists);
  return eviction;
}

absl::Status DeviceEviction::UploadSequence() {
  if (made_ != nullptr) return absl::OkStatus();
  const bool global = policy_.layer.kind == LayerBudget::Kind::kGlobal;
  const bool normed = policy_.reads_norms() && sequence_.normed_kind == policy_.norm();
  absl::StatusOr<DeviceSequence> uploaded =
      DeviceSequence::Upload(device_, sequence_, global ? std::numeric_limits<uint64_t>::max() : kRangeBytes, normed);
  if (!uploaded.ok()) return uploaded.status();
  made_ = std::make_shared<DevicePlan>();
  made_->sequence = *std::move(uploaded);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> DeviceEviction::CountCandidates(int64_t k) {
  const size_t units = sequence_.units.size();
  std::vector<int32_t> candidates;
  const bool stored = std::ranges::any_of(sequence_.units, [](const UnitView& unit) { return unit.stored > 0; });
  if (policy_.protect.sinks == 0 || !stored) {
    for (const UnitView& unit : sequence_.units) {
      candidates.push_back(engine::Candidates(unit, sequence_.pool, {}, policy_.protect, k).size());
    }
    return candidates;
  }
  KVS_RETURN_IF_ERROR(UploadSequence());
  const DeviceCandidates on_device = made_->sequence.AllCandidates();
  KVS_RETURN_IF_ERROR(
      device_->Check(LaunchCandidates(made_->sequence.pool(), made_->sequence.AllUnits(), policy_.protect.sinks,
                                      Recent(policy_.protect, k), on_device, device_->stream()),
                     "candidates"));
  absl::StatusOr<std::byte*> pinned = device_->Pinned(2 * units * sizeof(int32_t));
  if (!pinned.ok()) return pinned.status();
  auto* const begin = reinterpret_cast<int32_t*>(*pinned);
  int32_t* const end = begin + units;
  for (const auto& [to, from] : {std::pair(begin, on_device.begin), std::pair(end, on_device.end)}) {
    KVS_RETURN_IF_ERROR(device_->Check(
        cudaMemcpyAsync(to, from, units * sizeof(int32_t), cudaMemcpyDeviceToHost, device_->stream()), "candidates"));
  }
  KVS_RETURN_IF_ERROR(device_->Synchronize());
  for (size_t u = 0; u < units; ++u) candidates.push_back(end[u] - begin[u]);
  return candidates;
}

void DeviceEviction::DivideBudget() {
  const auto kv_heads = static_cast<size_t>(sequence_.geometry.kv_heads);
  int64_t protected_tokens = 0;
  list_offset_.assign(1, 0);
  if (policy_.layer.kind == LayerBudget::Kind::kGlobal) {
    totals_ = {outline_.candidates_that_stay()};
    const auto sum = [](const std::vector<int64_t>& v) { return std::accumulate(v.begin(), v.end(), int64_t{0}); };
    protected_tokens = sum(outline_.residents) - sum(outline_.candidates);
    list_offset_.push_back(protected_tokens + totals_[0]);
    return;
  }
  totals_ = outline_.SharesOfLayers(policy_, {});
  for (size_t l = 0; l < totals_.size(); ++l) {
    protected_tokens = outline_.residents[l] - outline_.candidates[l];
    list_offset_.push_back(list_offset_.back() + protected_tokens + totals_[l]);
    if (policy_.head.kind != HeadBudget::Kind::kTable) continue;
    std::vector<int64_t> sizes;
    for (size_t u = l * kv_heads; u < (l + 1) * kv_heads; ++u) sizes.push_back(unit_candidates_[u]);
    const ParallelFor alone = [](int64_t count, const std::function<void(int64_t)>& body) {
      for (int64_t i = 0; i < count; ++i) body(i);
    };
    const HeadShares allotted =
        AllotHeads(policy_.head, static_cast<int32_t>(l), {{}, sizes, {}, {}}, totals_[l], alone);
    shares_.insert(shares_.end(), allotted.shares.begin(), allotted.shares.end());
  }
}

bool DeviceEviction::finished() const {
  if (on_host_ != nullptr) return on_host_->finished();
  return plan_.no_op || done_ == made_->sequence.ranges().size();
}

absl::Status DeviceEviction::Step() {
  if (on_host_ != nullptr) return on_host_->Step();
  if (sequence_.stopped()) return absl::CancelledError("the sequence was told to stop");
  Range range(*this, made_->sequence.ranges()[done_]);
  KVS_RETURN_IF_ERROR(range.Plan());
  KVS_RETURN_IF_ERROR(device_->Wait());
  const bool finite = range.results().AllFinite();
  if (finite) range.Take(plan_);
  KVS_RETURN_IF_ERROR(device_->Synchronize());
  if (!finite) {
    absl::StatusOr<std::unique_ptr<Eviction>> on_host = start_on_host_();
    if (!on_host.ok()) return on_host.status();
    on_host_ = *std::move(on_host);
    return absl::OkStatus();
  }
  score_seconds_ += device_->SecondsBetween(0, 1);
  select_seconds_ += device_->SecondsBetween(1, 2);
  ++done_;
  return absl::OkStatus();
}

Plan DeviceEviction::TakePlan() {
  if (on_host_ != nullptr) return on_host_->TakePlan();
  if (plan_.no_op) return std::move(plan_);
  const auto group = sequence_.units.size() / totals_.size();
  const auto kv_heads = static_cast<size_t>(sequence_.geometry.kv_heads);
  std::ranges::fill(plan_.layer_budgets, 0);
  for (size_t u = 0; u < sequence_.units.size(); ++u) {
    made_->list_begin.push_back(u % group == 0 ? list_offset_[u / group]
                                               : made_->list_begin.back() + plan_.kept[u - 1]);
    plan_.layer_budgets[u / kv_heads] += plan_.kept[u];
  }
  plan_.on_device = std::shared_ptr<const void>(std::move(made_));
  return std::move(plan_);
}

double DeviceEviction::score_seconds() const { return score_seconds_ + (on_host_ ? on_host_->score_seconds() : 0); }

double DeviceEviction::select_seconds() const { return select_seconds_ + (on_host_ ? on_host_->select_seconds() : 0); }

}  // namespace kvsteward::engine::cuda
