#include "kernels/cuda/window.h"

#include "kernels/plan/row_scale.h"

namespace kvsteward::engine::cuda {
namespace {

size_t RowBytes(const SequenceView& sequence) {
  return static_cast<size_t>(sequence.geometry.head_dim) * SizeOf(sequence.window.dtype);
}

}  // namespace

size_t QueryBytes(const SequenceView& sequence, int32_t layers, int32_t rows) {
  return static_cast<size_t>(layers) * static_cast<size_t>(sequence.geometry.query_heads) * static_cast<size_t>(rows) *
         RowBytes(sequence);
}

absl::Status CopyQueries(Device& device, const SequenceView& sequence, int32_t first_layer, int32_t layers,
                         int32_t rows, std::byte* to) {
  const auto query_heads = static_cast<size_t>(sequence.geometry.query_heads);
  const size_t pitch = static_cast<size_t>(sequence.window.rows) * RowBytes(sequence);
  const size_t width = static_cast<size_t>(rows) * RowBytes(sequence);
  const std::byte* from =
      sequence.window.queries + static_cast<size_t>(first_layer) * query_heads * pitch + (pitch - width);
  return device.Check(cudaMemcpy2DAsync(to, width, from, pitch, width, static_cast<size_t>(layers) * query_heads,
                                        cudaMemcpyHostToDevice, device.stream()),
                      "the copy of the window");
}

void FillRows(const SequenceView& sequence, const Policy& policy, int64_t k, std::span<int32_t> positions,
              std::span<float> scales) {
  const std::span<const int32_t> used = sequence.window.positions.last(positions.size());
  for (size_t i = 0; i < used.size(); ++i) {
    positions[i] = used[i];
    scales[i] = RowScale(policy.signal, k, used[i], sequence.geometry.head_dim);
  }
}

}  // namespace kvsteward::engine::cuda
