// A sequence's units as kernels read them: sizes, block tables, candidates. Owns the device memory of that, none of the
// pool's. Move-only; used by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/image.h"
#include "kernels/cuda/views.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cuda {

// Whole layers that are planned together: units [first_unit, first_unit + units).
struct UnitRange {
  int32_t first_unit = 0;
  int32_t units = 0;
  int32_t longest = 0;
  int64_t tokens = 0;
  size_t offset_at = 0;  // of its offsets among all
};

DevicePool ViewOf(const PoolView& pool);

class DeviceSequence {
 public:
  // Starts the copy. Ranges hold as many layers as have `range_bytes` of keys, but at least one. `normed`: whether the
  // units' norms are of the kind that is read. RESOURCE_EXHAUSTED.
  static absl::StatusOr<DeviceSequence> Upload(const std::shared_ptr<Device>& device, const SequenceView& sequence,
                                               uint64_t range_bytes, bool normed);

  const DevicePool& pool() const { return pool_; }
  const std::vector<UnitRange>& ranges() const { return ranges_; }
  // Arrays over tokens are the range's own; those over units are the sequence's from its first on.
  DeviceUnits Units(const UnitRange& range) const;
  // All units, without offsets.
  DeviceUnits AllUnits() const;
  // Room for the candidates, which LaunchCandidates fills.
  DeviceCandidates Candidates(const UnitRange& range) const;
  DeviceCandidates AllCandidates() const;
  const int32_t* Normed(const UnitRange& range) const { return image_.on_device(normed_) + range.first_unit; }

 private:
  int32_t kv_heads_ = 0;
  int32_t longest_ = 0;
  int32_t block_stride_ = 0;
  DevicePool pool_;
  std::vector<UnitRange> ranges_;
  Image image_;
  ImagePart<int32_t> length_, stored_, appended_, normed_;
  ImagePart<int64_t> offset_;
  ImagePart<uint32_t> blocks_;
  ImagePart<int32_t> begin_, end_;
};

}  // namespace kvsteward::engine::cuda
