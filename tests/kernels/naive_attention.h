// A layer of random keys and queries in scattered blocks, and stages 1 to 3 over it as naive float64 sums.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {

struct Shape {
  int32_t group = 1;
  int32_t kv_heads = 1;
  int32_t dim = 8;
  std::vector<int32_t> lengths;  // [kv_heads]
  std::vector<int32_t> rows;     // their positions
  int32_t seen = 0;
  DType dtype = DType::kF32;
  double loudness = 1;  // of the queries
};

// One layer in scattered blocks; memory without tokens is NaN. Half of a unit's tokens survived an eviction, so that
// their positions have gaps.
class Layer {
 public:
  Layer(const Shape& shape, uint32_t seed) : shape_(shape), random_(seed) {
    geometry_ = {1, shape.group * shape.kv_heads, shape.kv_heads, shape.dim, shape.dtype};
    uint32_t blocks = 1;
    for (const int32_t length : shape.lengths) blocks += 2 * BlocksFor(static_cast<uint64_t>(length));
    data_.assign(blocks * geometry_.block_bytes(), std::byte{0xff});
    positions_.assign(size_t{blocks} * kBlockTokens, -1'000'000);
    pool_ = {data_.data(), geometry_.block_bytes(), positions_.data(), nullptr, nullptr};
    rows_.resize(shape.lengths.size());
    uint32_t next = 1;
    for (size_t head = 0; head < rows_.size(); ++head) {
      const int32_t length = shape.lengths[head];
      for (uint32_t block = 0; block < BlocksFor(static_cast<uint64_t>(length)); ++block, next += 2) {
        rows_[head].push_back({next, 1});
      }
      const int32_t stored = length / 2;
      const int32_t appended = shape.seen - (length - stored);
      units_.push_back({rows_[head], length, stored, appended, 0, 0});
      std::vector<int32_t> places(static_cast<size_t>(appended));
      for (int32_t i = 0; i < appended; ++i) places[static_cast<size_t>(i)] = i;
      std::vector<int32_t> survived;
      std::ranges::sample(places, std::back_inserter(survived), stored, random_);
      for (int32_t j = 0; j < length; ++j) Place(head, j, j < stored ? survived[static_cast<size_t>(j)] : 0);
    }
    for (int32_t i = 0; i < shape.seen; ++i) classes_.push_back(static_cast<uint8_t>(random_() % 3));
    queries_.resize(static_cast<size_t>(geometry_.query_heads) * shape.rows.size() * geometry_.token_bytes());
    for (size_t at = 0; at < queries_.size(); at += SizeOf(shape.dtype)) Put(shape.loudness, &queries_[at]);
  }

  SequenceView View() const {
    SequenceView view;
    view.geometry = geometry_;
    view.pool = pool_;
    view.units = units_;
    view.window = {queries_.data(), shape_.dtype, static_cast<int32_t>(shape_.rows.size()), shape_.rows};
    view.inputs.classes = classes_;
    view.seen = shape_.seen;
    return view;
  }

  double Get(const std::byte* from) const {
    float value = 0;
    uint16_t half = 0;
    if (shape_.dtype == DType::kF32) {
      std::memcpy(&value, from, sizeof(value));
      return value;
    }
    std::memcpy(&half, from, sizeof(half));
    return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
  }
  std::byte* Key(int32_t head, int32_t j) const {
    const uint32_t block = BlockOf(units_[static_cast<size_t>(head)].row, static_cast<uint32_t>(j / kBlockTokens));
    return pool_.keys(block) + static_cast<size_t>(j % kBlockTokens) * geometry_.token_bytes();
  }
  std::byte* Query(int32_t query_head, int32_t row) {
    return &queries_[(static_cast<size_t>(query_head) * shape_.rows.size() + static_cast<size_t>(row)) *
                     geometry_.token_bytes()];
  }
  double Dot(const std::byte* a, const std::byte* b) const {
    double sum = 0;
    for (int32_t i = 0; i < shape_.dim; ++i, a += SizeOf(shape_.dtype), b += SizeOf(shape_.dtype))
      sum += Get(a) * Get(b);
    return sum;
  }
  int32_t Position(int32_t head, int32_t j) const { return PositionOf(units_[static_cast<size_t>(head)], pool_, j); }
  int32_t ClassAt(int32_t position) const { return classes_[static_cast<size_t>(position)]; }
  const Shape& shape() const { return shape_; }

 private:
  void Put(double loudness, std::byte* to) {
    const auto value = static_cast<float>(loudness * std::normal_distribution<double>()(random_));
    const auto half = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    if (shape_.dtype == DType::kF32) {
      std::memcpy(to, &value, sizeof(value));
    } else {
      std::memcpy(to, &half, sizeof(half));
    }
  }
  void Place(size_t head, int32_t j, int32_t position) {
    std::byte* key = Key(static_cast<int32_t>(head), j);
    for (int32_t i = 0; i < shape_.dim; ++i) Put(1, key + static_cast<size_t>(i) * SizeOf(shape_.dtype));
    if (j >= units_[head].stored) return;
    const uint32_t block = BlockOf(units_[head].row, static_cast<uint32_t>(j / kBlockTokens));
    positions_[static_cast<size_t>(block) * kBlockTokens + static_cast<size_t>(j % kBlockTokens)] = position;
  }

  Shape shape_;
  std::mt19937 random_;
  Geometry geometry_;
  std::vector<std::byte> data_;
  std::vector<int32_t> positions_;
  PoolView pool_;
  std::vector<std::vector<Run>> rows_;
  std::vector<UnitView> units_;
  std::vector<uint8_t> classes_;
  std::vector<std::byte> queries_;
};

struct Expected {
  std::vector<double> scores;  // [n], or [group][n] with the group after the refinements
  std::vector<double> attention;
  std::vector<double> cross;
  std::vector<double> self;
  double greatest_logit = 0;
};

Expected Naive(Layer& layer, const SequenceView& view, const Policy& policy, int64_t k, int32_t kv_head,
               const CandidateSet& candidates);

}  // namespace kvsteward::engine::cpu
