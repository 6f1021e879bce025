// What the host engine reads of a sequence whose memory is a device's: side arrays copied once, keys and values a layer
// at a time, in blocks of the copy's own. Norms and running scores that the host makes go back. Used by one thread at a
// time; the sequence must outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/run.h"
#include "kernels/cuda/device.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cuda {

class HostMirror {
 public:
  // Copies the positions, and the norms and running scores that the policy reads.
  static absl::StatusOr<std::unique_ptr<HostMirror>> Make(std::shared_ptr<Device> device, const SequenceView& sequence,
                                                          const Policy& policy);
  HostMirror(const HostMirror&) = delete;
  HostMirror& operator=(const HostMirror&) = delete;

  // The sequence on the host, but for its keys and values.
  const SequenceView& sequence() const { return mirrored_; }
  // Copies what is asked for of the layer's keys and values; the layer's norms.
  absl::Status LoadLayer(int32_t layer, bool keys, bool values);
  absl::Status LoadNorms(int32_t layer);
  // The mirrored sequence with the keys and values that were loaded last.
  SequenceView loaded() const;

  // Copies a layer's side arrays back.
  absl::Status StoreNorms(int32_t layer);
  absl::Status StoreRunning(int32_t layer, std::span<const float> running);

 private:
  HostMirror(std::shared_ptr<Device> device, const SequenceView& sequence, const Policy& policy);

  // Copies the blocks that hold the first `tokens` tokens of unit `u`, each `block_bytes` in one array and the other.
  absl::Status CopyBlocks(size_t u, int32_t tokens, size_t block_bytes, size_t bytes_of_block, std::byte* on_device,
                          std::byte* on_host, uint32_t first_on_host, cudaMemcpyKind kind);
  absl::Status CopySide(size_t u, int32_t tokens, void* on_device, void* on_host, cudaMemcpyKind kind);

  const std::shared_ptr<Device> device_;
  const SequenceView& original_;
  std::vector<Run> rows_;  // [units]: one run each
  std::vector<UnitView> units_;
  std::vector<int32_t> positions_;  // [blocks * 16], as are the others
  std::vector<float> norms_;
  std::vector<float> running_;
  std::vector<std::byte> blocks_;  // of the layer that was loaded last
  uint32_t first_block_ = 0;       // of that layer
  SequenceView mirrored_;
};

}  // namespace kvsteward::engine::cuda
