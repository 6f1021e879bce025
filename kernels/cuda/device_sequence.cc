#include "kernels/cuda/device_sequence.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/rows.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr uint64_t kLeastTokenBytes = 64;

std::vector<UnitRange> Cut(const SequenceView& sequence, uint64_t range_bytes) {
  const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
  std::vector<UnitRange> ranges;
  uint64_t bytes = 0;
  for (size_t first = 0; first < sequence.units.size(); first += heads) {
    int64_t tokens = 0;
    int32_t longest = 0;
    for (const UnitView& unit : sequence.units.subspan(first, heads)) {
      tokens += unit.length;
      longest = std::max(longest, unit.length);
    }
    // Small heads need little for their keys, but as much as others for their scores.
    const uint64_t layer_bytes =
        static_cast<uint64_t>(tokens) * std::max<uint64_t>(sequence.geometry.token_bytes(), kLeastTokenBytes);
    if (ranges.empty() || bytes + layer_bytes > range_bytes) {
      ranges.push_back({.first_unit = static_cast<int32_t>(first), .offset_at = first + ranges.size()});
      bytes = 0;
    }
    UnitRange& range = ranges.back();
    range.units += static_cast<int32_t>(heads);
    range.longest = std::max(range.longest, longest);
    range.tokens += tokens;
    bytes += layer_bytes;
  }
  return ranges;
}

}  // namespace

DevicePool ViewOf(const PoolView& pool) {
  return {pool.data, pool.block_bytes, pool.positions, pool.norms, pool.running};
}

absl::StatusOr<DeviceSequence> DeviceSequence::Upload(const std::shared_ptr<Device>& device,
                                                      const SequenceView& sequence, uint64_t range_bytes, bool normed) {
  const size_t units = sequence.units.size();
  DeviceSequence to;
  to.kv_heads_ = sequence.geometry.kv_heads;
  to.pool_ = ViewOf(sequence.pool);
  to.ranges_ = Cut(sequence, range_bytes);
  size_t runs = 0;
  for (const UnitView& unit : sequence.units) {
    to.longest_ = std::max(to.longest_, unit.length);
    runs += unit.row.size();
  }
  to.block_stride_ = static_cast<int32_t>((int64_t{to.longest_} + kBlockTokens - 1) / kBlockTokens);

  Image& image = to.image_;
  to.length_ = image.Add<int32_t>(units);
  to.stored_ = image.Add<int32_t>(units);
  to.appended_ = image.Add<int32_t>(units);
  to.normed_ = image.Add<int32_t>(units);
  to.offset_ = image.Add<int64_t>(units + to.ranges_.size());
  const ImagePart<int64_t> run_offset = image.Add<int64_t>(units + 1);
  const ImagePart<Run> all_runs = image.Add<Run>(runs);
  to.blocks_ = image.Room<uint32_t>(units * static_cast<size_t>(to.block_stride_));
  to.begin_ = image.Room<int32_t>(units);
  to.end_ = image.Room<int32_t>(units);
  KVS_RETURN_IF_ERROR(image.Allocate(device, "the tables of a sequence"));

  size_t run = 0;
  for (size_t u = 0; u < units; ++u) {
    const UnitView& unit = sequence.units[u];
    image.host(to.length_)[u] = unit.length;
    image.host(to.stored_)[u] = unit.stored;
    image.host(to.appended_)[u] = unit.appended_position;
    image.host(to.normed_)[u] = normed ? unit.normed : 0;
    image.host(run_offset)[u] = static_cast<int64_t>(run);
    for (const Run& each : unit.row) image.host(all_runs)[run++] = each;
  }
  image.host(run_offset)[units] = static_cast<int64_t>(run);
  for (const UnitRange& range : to.ranges_) {
    const std::span<int64_t> offset = image.host(to.offset_).subspan(range.offset_at);
    offset[0] = 0;
    for (size_t i = 0; i < static_cast<size_t>(range.units); ++i) {
      offset[i + 1] = offset[i] + sequence.units[static_cast<size_t>(range.first_unit) + i].length;
    }
  }
  KVS_RETURN_IF_ERROR(image.Send(*device));
  KVS_RETURN_IF_ERROR(device->Check(LaunchExpandRows(image.on_device(all_runs), image.on_device(run_offset),
                                                     to.AllUnits(), image.on_device(to.blocks_), device->stream()),
                                    "the block tables"));
  return to;
}

DeviceUnits DeviceSequence::AllUnits() const {
  return {.units = static_cast<int32_t>(length_.count),
          .kv_heads = kv_heads_,
          .longest = longest_,
          .block_stride = block_stride_,
          .blocks = image_.on_device(blocks_),
          .length = image_.on_device(length_),
          .stored = image_.on_device(stored_),
          .appended_position = image_.on_device(appended_),
          .offset = nullptr};
}

DeviceUnits DeviceSequence::Units(const UnitRange& range) const {
  DeviceUnits units = Slice(AllUnits(), range.first_unit, range.units);
  units.longest = range.longest;
  units.offset = image_.on_device(offset_) + range.offset_at;
  return units;
}

DeviceCandidates DeviceSequence::AllCandidates() const { return {image_.on_device(begin_), image_.on_device(end_)}; }

DeviceCandidates DeviceSequence::Candidates(const UnitRange& range) const {
  return {image_.on_device(begin_) + range.first_unit, image_.on_device(end_) + range.first_unit};
}

}  // namespace kvsteward::engine::cuda
