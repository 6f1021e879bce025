// Units in device memory with what candidates and refinements read of them: blocks in any order, positions, norms.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/cuda/views.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_test {

using engine::kBlockTokens;

// On the host: unit u's resident j has position positions[u][j] and norm norms[u][j].
struct HostUnits {
  std::vector<int32_t> length, stored, appended;  // [units]
  std::vector<std::vector<int32_t>> positions;
  std::vector<std::vector<float>> norms;
  std::vector<int64_t> offset = {0};  // [units + 1]

  size_t count() const { return length.size(); }
};

// Positions with gaps among the first `stored` tokens, beginning with 0 or later; then consecutive ones.
inline HostUnits DrawUnits(std::mt19937& random, const std::vector<int32_t>& lengths) {
  HostUnits units;
  for (const int32_t length : lengths) {
    const auto bound = static_cast<uint32_t>(length) + 1;
    const int32_t stored_choices[] = {0, length, static_cast<int32_t>(random() % bound)};
    const int32_t stored = stored_choices[random() % 3];
    std::vector<int32_t> positions;
    auto position = static_cast<int32_t>(random() % 3 * (random() % 6));
    for (int32_t j = 0; j < stored; ++j) {
      positions.push_back(position);
      position += 1 + static_cast<int32_t>(random() % 4 == 0 ? random() % 5 : 0);
    }
    units.appended.push_back(position);
    for (int32_t j = stored; j < length; ++j) positions.push_back(position++);
    std::vector<float> norms;
    for (int32_t j = 0; j < length; ++j) norms.push_back(static_cast<float>(random()) * 0x1p-30f);
    units.length.push_back(length);
    units.stored.push_back(stored);
    units.positions.push_back(std::move(positions));
    units.norms.push_back(std::move(norms));
    units.offset.push_back(units.offset.back() + length);
  }
  return units;
}

// The same in device memory. Slots that hold nothing have positions and norms that would be noticed.
class PagedUnits {
 public:
  PagedUnits(std::mt19937& random, const HostUnits& host) : PagedUnits(Lay(random, host)) {}

  engine::cuda::DevicePool pool() const { return {.positions = positions_.data(), .norms = norms_.data()}; }
  engine::cuda::DeviceUnits units() const {
    return {.units = static_cast<int32_t>(length_.size()),
            .kv_heads = 1,
            .longest = longest_,
            .block_stride = stride_,
            .blocks = blocks_.data(),
            .length = length_.data(),
            .stored = stored_.data(),
            .appended_position = appended_.data(),
            .offset = offset_.data()};
  }
  // As the host's planner sees it.
  const std::vector<uint32_t>& blocks() const { return host_blocks_; }
  const std::vector<int32_t>& positions() const { return host_positions_; }
  int32_t stride() const { return stride_; }

 private:
  struct Layout {
    const HostUnits* host;
    std::vector<uint32_t> blocks;
    std::vector<int32_t> positions;
    std::vector<float> norms;
    int32_t longest, stride;
  };

  static Layout Lay(std::mt19937& random, const HostUnits& host) {
    Layout layout{.host = &host, .blocks = {}, .positions = {}, .norms = {}, .longest = 0, .stride = 0};
    for (const int32_t length : host.length) layout.longest = std::max(layout.longest, length);
    layout.stride = (layout.longest + kBlockTokens - 1) / kBlockTokens + 1;
    const size_t count = host.count() * static_cast<size_t>(layout.stride);
    for (size_t i = 0; i < count; ++i) layout.blocks.push_back(static_cast<uint32_t>(i));
    std::ranges::shuffle(layout.blocks, random);
    layout.positions.assign(count * kBlockTokens, -1000);
    layout.norms.assign(count * kBlockTokens, 1e30f);
    for (size_t u = 0; u < host.count(); ++u) {
      for (int32_t j = 0; j < host.length[u]; ++j) {
        const size_t entry = u * static_cast<size_t>(layout.stride) + static_cast<size_t>(j / kBlockTokens);
        const size_t slot = layout.blocks[entry] * size_t{kBlockTokens} + static_cast<size_t>(j % kBlockTokens);
        if (j < host.stored[u]) layout.positions[slot] = host.positions[u][static_cast<size_t>(j)];
        layout.norms[slot] = host.norms[u][static_cast<size_t>(j)];
      }
    }
    return layout;
  }

  explicit PagedUnits(const Layout& layout)
      : host_blocks_(layout.blocks),
        host_positions_(layout.positions),
        longest_(layout.longest),
        stride_(layout.stride),
        blocks_(layout.blocks),
        positions_(layout.positions),
        norms_(layout.norms),
        length_(layout.host->length),
        stored_(layout.host->stored),
        appended_(layout.host->appended),
        offset_(layout.host->offset) {}

  std::vector<uint32_t> host_blocks_;
  std::vector<int32_t> host_positions_;
  int32_t longest_, stride_;
  DeviceArray<uint32_t> blocks_;
  DeviceArray<int32_t> positions_;
  DeviceArray<float> norms_;
  DeviceArray<int32_t> length_, stored_, appended_;
  DeviceArray<int64_t> offset_;
};

}  // namespace kvsteward::gpu_test
