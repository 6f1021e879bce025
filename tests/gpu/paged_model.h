// A sequence's paged cache on the host and a copy of it on the device, for tests of kernels that read it: units of
// given lengths, their blocks strewn over the pool, positions with gaps. Numbers are kept in the stored type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/cuda/views.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_test {

using engine::DType;
using engine::kBlockTokens;
using engine::SizeOf;

inline void StoreNumber(DType dtype, std::byte* data, size_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(data + index * 4, &value, 4);
  } else if (dtype == DType::kF16) {
    const __half half = __float2half_rn(value);
    std::memcpy(data + index * 2, &half, 2);
  } else {
    const __nv_bfloat16 half = __float2bfloat16_rn(value);
    std::memcpy(data + index * 2, &half, 2);
  }
}

inline double LoadNumber(DType dtype, const std::byte* data, size_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  if (dtype == DType::kF16) {
    __half half;
    std::memcpy(&half, data + index * 2, 2);
    return __half2float(half);
  }
  __nv_bfloat16 half;
  std::memcpy(&half, data + index * 2, 2);
  return __bfloat162float(half);
}

struct PagedModel {
  int32_t kv_heads = 1;
  int32_t head_dim = 0;
  DType dtype = DType::kBF16;
  int32_t block_stride = 1;
  size_t block_bytes = 0;
  uint32_t pool_blocks = 0;
  std::vector<int32_t> length, stored, appended;  // [units]
  std::vector<int64_t> offset = {0};              // [units + 1]
  std::vector<uint32_t> blocks;                   // [units][block_stride], garbage behind a unit's last
  std::vector<std::byte> data;
  std::vector<int32_t> positions;  // [pool_blocks * 16], garbage where a token is appended

  // Of each unit's residents the share `stored_share` survived an eviction; each of them was followed by up to `gap`
  // evicted tokens.
  PagedModel(Random& random, std::vector<int32_t> lengths, int32_t heads, int32_t dim, DType type, float stored_share,
             int32_t gap)
      : kv_heads(heads), head_dim(dim), dtype(type), length(std::move(lengths)) {
    uint32_t used = 0;
    for (const int32_t n : length) {
      used += static_cast<uint32_t>((n + kBlockTokens - 1) / kBlockTokens);
      block_stride = std::max(block_stride, (n + kBlockTokens - 1) / kBlockTokens + 1);
      offset.push_back(offset.back() + n);
    }
    pool_blocks = used + 3;
    block_bytes = size_t{2} * kBlockTokens * static_cast<size_t>(dim) * SizeOf(type);
    data.resize(block_bytes * pool_blocks);
    positions.assign(size_t{pool_blocks} * kBlockTokens, INT32_MIN);
    blocks.assign(length.size() * static_cast<size_t>(block_stride), 0xffffffffu);
    std::vector<uint32_t> order(pool_blocks);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
    size_t next = 0;
    for (size_t unit = 0; unit < length.size(); ++unit) {
      const int32_t n = length[unit];
      for (int32_t b = 0; b * kBlockTokens < n; ++b) {
        blocks[unit * static_cast<size_t>(block_stride) + static_cast<size_t>(b)] = order[next++];
      }
      stored.push_back(static_cast<int32_t>(static_cast<float>(n) * stored_share));
      int32_t position = static_cast<int32_t>(random.Below(3));
      for (int32_t j = 0; j < stored[unit]; ++j) {
        positions[Slot(unit, j)] = position;
        position += 1 + static_cast<int32_t>(random.Below(static_cast<uint64_t>(gap) + 1));
      }
      appended.push_back(position);
    }
  }

  int32_t units() const { return static_cast<int32_t>(length.size()); }
  int64_t tokens() const { return offset.back(); }
  int32_t longest() const { return *std::max_element(length.begin(), length.end()); }
  size_t Slot(size_t unit, int32_t j) const {
    return size_t{blocks[unit * static_cast<size_t>(block_stride) + static_cast<size_t>(j / kBlockTokens)]} *
               kBlockTokens +
           static_cast<size_t>(j % kBlockTokens);
  }
  int32_t Position(size_t unit, int32_t j) const {
    return j < stored[unit] ? positions[Slot(unit, j)] : appended[unit] + (j - stored[unit]);
  }
  std::byte* Key(size_t unit, int32_t j) {
    const size_t slot = Slot(unit, j);
    return data.data() + slot / kBlockTokens * block_bytes +
           slot % kBlockTokens * static_cast<size_t>(head_dim) * SizeOf(dtype);
  }
  std::byte* Value(size_t unit, int32_t j) { return Key(unit, j) + block_bytes / 2; }

  // Moves the same tokens to other blocks.
  void Strew(Random& random) {
    const PagedModel before = *this;
    std::vector<uint32_t> to(pool_blocks);
    std::iota(to.begin(), to.end(), 0u);
    for (size_t i = to.size() - 1; i > 0; --i) std::swap(to[i], to[random.Below(i + 1)]);
    for (uint32_t b = 0; b < pool_blocks; ++b) {
      std::copy_n(&before.data[b * block_bytes], block_bytes, &data[to[b] * block_bytes]);
      std::copy_n(&before.positions[size_t{b} * kBlockTokens], kBlockTokens, &positions[size_t{to[b]} * kBlockTokens]);
    }
    for (uint32_t& block : blocks) {
      if (block < pool_blocks) block = to[block];
    }
  }
};

// The model in device memory, as it was when this was made.
struct PagedOnDevice {
  DeviceArray<std::byte> data;
  DeviceArray<int32_t> positions, length, stored, appended;
  DeviceArray<float> norms;
  DeviceArray<uint32_t> blocks;
  DeviceArray<int64_t> offset;
  engine::cuda::DevicePool pool;
  engine::cuda::DeviceUnits units;

  explicit PagedOnDevice(const PagedModel& model)
      : data(model.data),
        positions(model.positions),
        length(model.length),
        stored(model.stored),
        appended(model.appended),
        norms(std::vector<float>(model.positions.size(), -7.0f)),
        blocks(model.blocks),
        offset(model.offset) {
    pool.data = data.data();
    pool.block_bytes = model.block_bytes;
    pool.positions = positions.data();
    pool.norms = norms.data();
    units.units = model.units();
    units.kv_heads = model.kv_heads;
    units.longest = model.longest();
    units.block_stride = model.block_stride;
    units.blocks = blocks.data();
    units.length = length.data();
    units.stored = stored.data();
    units.appended_position = appended.data();
    units.offset = offset.data();
  }
};

}  // namespace kvsteward::gpu_test
