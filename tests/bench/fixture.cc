#include "tests/bench/fixture.h"

#include <bit>
#include <cstring>
#include <random>

namespace kvsteward::bench {
namespace {

void FillNormal(std::vector<std::byte>& bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (size_t at = 0; at < bytes.size(); at += 2) {
    const auto bf16 = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
    std::memcpy(&bytes[at], &bf16, sizeof(bf16));
  }
}

}  // namespace

Fixture::Fixture(int32_t tokens, int32_t query_heads, int32_t kv_heads, int32_t head_dim, int32_t window) {
  geometry_ = {1, query_heads, kv_heads, head_dim, engine::DType::kBF16};
  const uint32_t blocks = BlocksFor(static_cast<uint64_t>(tokens));
  const size_t all = size_t{2} * blocks * static_cast<size_t>(kv_heads);
  data_.resize(all * geometry_.block_bytes());
  FillNormal(data_, 1);
  positions_.resize(all * engine::kBlockTokens);
  norms_.resize(all * engine::kBlockTokens);
  for (int32_t unit = 0; unit < kv_heads; ++unit) runs_.push_back({static_cast<uint32_t>(unit) * blocks, blocks});
  for (const Run& run : runs_) units_.push_back({{&run, 1}, tokens, 0, 0, 0});
  queries_.resize(static_cast<size_t>(query_heads) * window * geometry_.token_bytes());
  FillNormal(queries_, 2);
  for (size_t at = 0; at < queries_.size(); at += 2) {
    uint16_t bf16 = 0;
    std::memcpy(&bf16, &queries_[at], sizeof(bf16));
    float_queries_.push_back(std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16));
  }
  for (int32_t row = 0; row < window; ++row) query_positions_.push_back(tokens - window + row);
  const engine::PoolView pool{data_.data(), geometry_.block_bytes(), positions_.data(), norms_.data()};
  view_.geometry = geometry_;
  view_.pool = pool;
  view_.units = units_;
  view_.window = {queries_.data(), geometry_.dtype, window, query_positions_};
  view_.seen = tokens;
}

const engine::SequenceView& Fixture::Sequence(bool normed, bool float_queries) {
  for (engine::UnitView& unit : units_) unit.normed = normed ? unit.length : 0;
  view_.window.dtype = float_queries ? engine::DType::kF32 : engine::DType::kBF16;
  view_.window.queries = float_queries ? reinterpret_cast<const std::byte*>(float_queries_.data()) : queries_.data();
  return view_;
}

Run Fixture::FreeRun(int32_t unit) const {
  const Run& run = runs_[static_cast<size_t>(unit)];
  return {run.first + static_cast<uint32_t>(runs_.size()) * run.count, run.count};
}

}  // namespace kvsteward::bench
