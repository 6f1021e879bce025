#include "kernels/cuda/device_scores.h"

#include <algorithm>
#include <span>
#include <utility>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cuda/bad_token.h"
#include "kernels/cuda/device_policy.h"
#include "kernels/cuda/image.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/score.h"
#include "kernels/cuda/window.h"

namespace kvsteward::engine::cuda {

absl::StatusOr<std::unique_ptr<DeviceScores>> DeviceScores::Make(std::shared_ptr<Device> device,
                                                                 const SequenceView& sequence, const Policy& policy) {
  const bool normed = policy.reads_norms() && sequence.normed_kind == policy.norm();
  absl::StatusOr<DeviceSequence> on_device = DeviceSequence::Upload(device, sequence, /*range_bytes=*/0, normed);
  if (!on_device.ok()) return on_device.status();
  return std::unique_ptr<DeviceScores>(new DeviceScores(std::move(device), sequence, policy, *std::move(on_device)));
}

absl::StatusOr<bool> DeviceScores::Score(int64_t k, int32_t layer, const cpu::AttentionOutput& output) {
  if (sequence_.stopped()) return absl::CancelledError("scoring was stopped within a layer");
  const Geometry& geometry = sequence_.geometry;
  const UnitRange& range = on_device_.ranges()[static_cast<size_t>(layer)];
  ScoreArgs args;
  args.pool = on_device_.pool();
  args.units = on_device_.Units(range);
  args.head_dim = geometry.head_dim;
  args.group = geometry.group();
  args.dtype = geometry.dtype;
  args.query_dtype = sequence_.window.dtype;
  args.window_rows = args.rows = cpu::UsedRows(sequence_, policy_, k, layer).count;
  SetSignal(policy_, &args);

  Image image;
  const auto positions = image.Add<int32_t>(static_cast<size_t>(args.rows));
  const auto scales = image.Add<float>(static_cast<size_t>(args.rows));
  const auto queries = image.Room<std::byte>(QueryBytes(sequence_, 1, args.rows));
  const auto scores = image.Room<float>(output.scores.size());
  const auto attention = image.Room<float>(output.attention.size());
  const auto bad = image.Room<int64_t>(static_cast<size_t>(range.units));
  const auto workspace = image.Room<std::byte>(ScoreWorkspaceBytes(args, UnitsWithinWorkspace(args)));
  KVS_RETURN_IF_ERROR(image.Allocate(device_, "the scores of a layer"));
  FillRows(sequence_, policy_, k, image.host(positions), image.host(scales));
  KVS_RETURN_IF_ERROR(image.Send(*device_));
  KVS_RETURN_IF_ERROR(CopyQueries(*device_, sequence_, layer, 1, args.rows, image.on_device(queries)));

  args.queries = image.on_device(queries);
  args.positions = image.on_device(positions);
  args.scale = image.on_device(scales);
  args.scores = image.on_device(scores);
  if (!output.attention.empty()) args.attention = image.on_device(attention);
  args.bad = image.on_device(bad);
  KVS_RETURN_IF_ERROR(device_->Check(ResetBadTokens(args.bad, range.units, device_->stream()), "scores"));
  KVS_RETURN_IF_ERROR(device_->Check(
      LaunchScore(args, UnitsWithinWorkspace(args), image.on_device(workspace), device_->stream()), "scores"));
  for (const auto& [to, from] : {std::pair(output.scores, args.scores), std::pair(output.attention, args.attention)}) {
    if (to.empty()) continue;
    KVS_RETURN_IF_ERROR(device_->Check(
        cudaMemcpyAsync(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToHost, device_->stream()), "scores"));
  }
  return AllGood(args.bad, range.units);
}

absl::StatusOr<bool> DeviceScores::FillNorms(int32_t layer) {
  const UnitRange& range = on_device_.ranges()[static_cast<size_t>(layer)];
  Image image;
  const auto bad = image.Room<int64_t>(static_cast<size_t>(range.units));
  KVS_RETURN_IF_ERROR(image.Allocate(device_, "the norms of a layer"));
  KVS_RETURN_IF_ERROR(
      device_->Check(ResetBadTokens(image.on_device(bad), range.units, device_->stream()), "value norms"));
  KVS_RETURN_IF_ERROR(device_->Check(
      LaunchNorms(on_device_.pool(), on_device_.Units(range), sequence_.geometry.head_dim, sequence_.geometry.dtype,
                  policy_.norm() != Norm::kL1, on_device_.Normed(range), image.on_device(bad), device_->stream()),
      "value norms"));
  return AllGood(image.on_device(bad), range.units);
}

absl::StatusOr<bool> DeviceScores::AllGood(const int64_t* bad, int32_t units) {
  const size_t count = static_cast<size_t>(units);
  absl::StatusOr<std::byte*> pinned = device_->Pinned(count * sizeof(*bad));
  if (!pinned.ok()) return pinned.status();
  auto* const read = reinterpret_cast<int64_t*>(*pinned);
  KVS_RETURN_IF_ERROR(device_->Check(
      cudaMemcpyAsync(read, bad, count * sizeof(*bad), cudaMemcpyDeviceToHost, device_->stream()), "scores"));
  KVS_RETURN_IF_ERROR(device_->Wait());
  const bool good = std::ranges::all_of(std::span(read, count), [](int64_t each) { return each == kNoBadToken; });
  KVS_RETURN_IF_ERROR(device_->Synchronize());
  return good;
}

}  // namespace kvsteward::engine::cuda
