#include "kernels/cuda/compaction.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "client/include/kvsteward/shm.h"
#include "kernels/cuda/compact.h"
#include "kernels/cuda/device_eviction.h"
#include "kernels/cuda/publish.h"
#include "kernels/cuda/rows.h"

namespace kvsteward::engine::cuda {
namespace {

// The device's form of a plan that the host made.
absl::StatusOr<std::shared_ptr<const DevicePlan>> Upload(const std::shared_ptr<Device>& device,
                                                         const SequenceView& sequence, const Plan& plan) {
  auto made = std::make_shared<DevicePlan>();
  absl::StatusOr<DeviceSequence> uploaded = DeviceSequence::Upload(device, sequence, UINT64_MAX, false);
  if (!uploaded.ok()) return uploaded.status();
  made->sequence = *std::move(uploaded);
  std::vector<int32_t> lists;
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    made->list_begin.push_back(static_cast<int64_t>(lists.size()));
    int32_t first = 0;
    for (uint64_t word : plan.UnitMask(static_cast<int32_t>(u))) {
      for (; word != 0; word &= word - 1) lists.push_back(first + std::countr_zero(word));
      first += 64;
    }
  }
  const size_t bytes = lists.size() * sizeof(int32_t);
  absl::StatusOr<DeviceArray> on_device = DeviceArray::Allocate(device, bytes, "the plan of a sequence");
  if (!on_device.ok()) return on_device.status();
  made->lists = *std::move(on_device);
  KVS_RETURN_IF_ERROR(
      device->Check(cudaMemcpyAsync(made->lists.data(), lists.data(), bytes, cudaMemcpyHostToDevice, device->stream()),
                    "the plan of a sequence"));
  KVS_RETURN_IF_ERROR(device->Synchronize());  // before `lists` goes
  return made;
}

// The table as the device sees it; nullptr if it cannot.
std::byte* OnDevice(const TableView& table) {
  void* address = nullptr;
  if (table.table == nullptr) return nullptr;
  if (cudaHostGetDevicePointer(&address, table.table, 0) != cudaSuccess) {
    cudaGetLastError();  // it is not sticky
    return nullptr;
  }
  return static_cast<std::byte*>(address);
}

}  // namespace

absl::StatusOr<Publishing> CompactOnDevice(const std::shared_ptr<Device>& device, const SequenceView& sequence,
                                           const Plan& plan, std::span<const UnitMove> moves, const TableView& table) {
  if (moves.empty()) return Publishing::kDone;
  auto made = std::static_pointer_cast<const DevicePlan>(plan.on_device);
  if (made == nullptr) {
    absl::StatusOr<std::shared_ptr<const DevicePlan>> uploaded = Upload(device, sequence, plan);
    if (!uploaded.ok()) return uploaded.status();
    made = *std::move(uploaded);
  }
  const size_t units = sequence.units.size();
  size_t runs = 0;
  int32_t most_kept = 0;
  for (const UnitMove& move : moves) {
    runs += move.to.size();
    most_kept = std::max(most_kept, plan.kept[static_cast<size_t>(move.unit)]);
  }
  const auto to_stride = static_cast<int32_t>((int64_t{most_kept} + kBlockTokens - 1) / kBlockTokens);

  Image image;
  const auto unit = image.Add<int32_t>(moves.size());
  const auto moved = image.Add<int32_t>(moves.size());  // tokens of each move
  const auto run_offset = image.Add<int64_t>(moves.size() + 1);
  const auto all_runs = image.Add<Run>(runs);
  const auto begin = image.Add<int64_t>(units);
  const auto kept = image.Add<int32_t>(units);
  const auto normed = image.Add<int32_t>(units);
  const auto scored = image.Add<int32_t>(units);
  const auto to = image.Room<uint32_t>(moves.size() * static_cast<size_t>(to_stride));
  KVS_RETURN_IF_ERROR(image.Allocate(device, "where a sequence's tokens go"));
  std::ranges::copy(made->list_begin, image.host(begin).begin());
  std::ranges::copy(plan.kept, image.host(kept).begin());
  for (size_t u = 0; u < units; ++u) {
    image.host(normed)[u] = sequence.units[u].normed;
    image.host(scored)[u] = sequence.units[u].scored;
  }
  size_t run = 0;
  for (size_t i = 0; i < moves.size(); ++i) {
    image.host(unit)[i] = moves[i].unit;
    image.host(moved)[i] = plan.kept[static_cast<size_t>(moves[i].unit)];
    image.host(run_offset)[i] = static_cast<int64_t>(run);
    for (const Run& each : moves[i].to) image.host(all_runs)[run++] = each;
  }
  image.host(run_offset)[moves.size()] = static_cast<int64_t>(run);
  KVS_RETURN_IF_ERROR(image.Send(*device));

  const DeviceUnits targets{.units = static_cast<int32_t>(moves.size()),
                            .kv_heads = 1,
                            .longest = most_kept,
                            .block_stride = to_stride,
                            .length = image.on_device(moved)};
  KVS_RETURN_IF_ERROR(device->Check(LaunchExpandRows(image.on_device(all_runs), image.on_device(run_offset), targets,
                                                     image.on_device(to), device->stream()),
                                    "where a sequence's tokens go"));
  const DeviceWave wave{.count = static_cast<int32_t>(moves.size()),
                        .most_kept = most_kept,
                        .unit = image.on_device(unit),
                        .kept = reinterpret_cast<const int32_t*>(made->lists.data()),
                        .kept_begin = image.on_device(begin),
                        .kept_count = image.on_device(kept),
                        .normed = image.on_device(normed),
                        .scored = image.on_device(scored),
                        .to = image.on_device(to),
                        .to_stride = to_stride};
  KVS_RETURN_IF_ERROR(device->Check(
      LaunchCompact(made->sequence.pool(), made->sequence.AllUnits(), wave, device->stream()), "compaction"));
  Publishing publishing = Publishing::kByCaller;
  if (std::byte* const shown = OnDevice(table); shown != nullptr) {
    const auto* const header = reinterpret_cast<const kvs_sequence_table*>(table.table);
    const DeviceTable on_device{.table = shown, .units = header->units, .row_capacity = table.row_capacity};
    KVS_RETURN_IF_ERROR(
        device->Check(LaunchPublish(on_device, wave, table.base_tokens, device->stream()), "the rows of a table"));
    publishing = Publishing::kDone;
  }
  KVS_RETURN_IF_ERROR(device->Synchronize());
  return publishing;
}

}  // namespace kvsteward::engine::cuda
