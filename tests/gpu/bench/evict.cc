// What an eviction through the engine takes beyond the device's own time: checks, uploads, launches, waiting, the
// plan's way to the host.
#include <algorithm>
#include <chrono>
#include <vector>

#include "kvsteward/engine/cuda.h"
#include "tests/gpu/bench/sections.h"
#include "tests/gpu/bench/sequence.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr int32_t kLayers = 32, kTokens = 32768;
constexpr int kWarmUps = 3, kRepetitions = 50;

using engine::kBlockTokens;

template <class T>
bool Ok(const absl::StatusOr<T>& result) {
  if (CHECK(result.ok())) return true;
  std::printf("  %s\n", result.status().ToString().c_str());
  return false;
}

template <class Body>
double WallUs(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

// The sequence as the engine is shown it. Owns what the views point to.
struct Shown {
  std::vector<Run> rows;
  std::vector<engine::UnitView> units;
  std::vector<uint16_t> queries;
  std::vector<int32_t> positions;
  engine::SequenceView view;

  explicit Shown(const Sequence& sequence) : queries(sequence.Queries()) {
    const engine::cuda::DevicePool pool = sequence.pool();
    const auto row_blocks = static_cast<uint32_t>(sequence.row_blocks());
    for (uint32_t u = 0; u < kLayers * kHeads; ++u) rows.push_back({u * row_blocks, row_blocks});
    for (const Run& row : rows) units.push_back({.row = {&row, 1}, .length = kTokens, .normed = kTokens});
    for (int32_t i = 0; i < kRows; ++i) positions.push_back(kTokens - kRows + i);
    view.geometry = {kLayers, kHeads * kGroup, kHeads, kDim, engine::DType::kBF16};
    view.pool = {pool.data, pool.block_bytes, pool.positions, pool.norms, nullptr};
    view.units = units;
    view.window = {reinterpret_cast<const std::byte*>(queries.data()), engine::DType::kBF16, kRows, positions};
    view.seen = kTokens;
  }
};

// Each unit's new row, behind all rows there are.
class Moves {
 public:
  Moves(const Sequence& sequence, const engine::Plan& plan) {
    auto next = static_cast<uint32_t>(kLayers * kHeads * sequence.row_blocks());
    for (const int32_t kept : plan.kept) {
      rows_.push_back({next, static_cast<uint32_t>((kept + kBlockTokens - 1) / kBlockTokens)});
      next = rows_.back().end();
    }
    for (size_t u = 0; u < rows_.size(); ++u) moves_.push_back({static_cast<int32_t>(u), {&rows_[u], 1}});
  }
  std::span<const engine::UnitMove> get() const { return moves_; }

 private:
  std::vector<Run> rows_;
  std::vector<engine::UnitMove> moves_;
};

}  // namespace

void MeasureEvict(Timer& timer, Report& report) {
  const auto engine = engine::NewCudaEngine({});
  const auto policy = engine::Preset("ahakv-ada");
  if (!Ok(engine) || !Ok(policy)) return;
  Sequence sequence(kLayers, kTokens, timer.stream());
  const cudaStream_t stream = timer.stream();
  CHECK_CUDA(sequence.Score(0, kLayers, 0, false, stream));
  CHECK_CUDA(sequence.Refine(Policy::kAhaKvAda, 0, kLayers, stream));
  CHECK_CUDA(sequence.Select(0, kLayers, stream));
  sequence.LayOut(stream);
  const double compact_us =
      timer.Time(How::kStream, 1, [&](int) { return sequence.Compact(0, kLayers, stream); }).median;

  const Shown shown(sequence);
  std::vector<double> whole, beyond;
  for (int i = 0; i < kWarmUps + kRepetitions; ++i) {
    engine::Plan plan;
    double plan_us = 0, device_us = compact_us;
    plan_us = WallUs([&] {
      const engine::Budget budget = {engine::Budget::Kind::kTokens, kTokens / kKeepOneIn};
      const auto eviction = (*engine)->StartEviction(shown.view, *policy, budget, {.masks = false, .scores = false});
      if (!Ok(eviction)) return;
      while (!(*eviction)->finished()) {
        if (const absl::Status status = (*eviction)->Step(); !CHECK(status.ok())) {
          std::printf("  %s\n", status.ToString().c_str());
          return;
        }
      }
      plan = (*eviction)->TakePlan();
      device_us += 1e6 * ((*eviction)->score_seconds() + (*eviction)->select_seconds());
    });
    if (plan.kept.empty()) return;
    const Moves moves(sequence, plan);
    const double move_us = WallUs([&] { Ok((*engine)->CompactUnits(shown.view, plan, moves.get(), {})); });
    if (i < kWarmUps) continue;
    whole.push_back(plan_us + move_us);
    beyond.push_back(plan_us + move_us - device_us);
  }
  report.Add({.name = "evict 32 layers of 32k through the engine", .unit = "us", .reading = ReadingOf(whole)});
  report.Add({.name = "evict beyond the device's time",
              .unit = "us",
              .reading = ReadingOf(beyond),
              .limits = {false, 100, 0}});
}

}  // namespace kvsteward::gpu_bench
