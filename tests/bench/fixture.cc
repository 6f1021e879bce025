#include "tests/bench/fixture.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>

#include "kvsteward/engine/engine.h"

namespace kvsteward::bench {
namespace {

// Normal numbers in bf16, drawn from 65,536 of them.
void FillNormal(std::span<std::byte> bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> table(65536);
  for (uint16_t& number : table) number = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
  uint64_t state = seed + 1;
  for (size_t at = 0; at < bytes.size(); at += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    uint64_t draw = (state ^ state >> 29) * 0xbf58476d1ce4e5b9u;
    draw ^= draw >> 32;
    uint64_t numbers = 0;
    for (int i = 0; i < 4; ++i) numbers |= uint64_t{table[draw >> (16 * i) & 0xffff]} << (16 * i);
    std::memcpy(&bytes[at], &numbers, sizeof(numbers));
  }
}

Mapping NewPool(size_t bytes) {
  const UniqueFd fd(memfd_create("bench", MFD_CLOEXEC));
  void* const at = !fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0
                       ? MAP_FAILED
                       : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) {
    std::perror("kvsteward_bench: no memory for the pool");
    std::exit(1);
  }
  return {at, bytes};
}

}  // namespace

Fixture::Fixture(int32_t tokens, int32_t layers) {
  geometry_ = {layers, kQueryHeads, kKvHeads, kHeadDim, engine::DType::kBF16};
  const uint32_t blocks = BlocksFor(static_cast<uint64_t>(tokens));
  const size_t used = size_t{blocks} * kKvHeads;
  data_ = NewPool(2 * used * geometry_.block_bytes());
  FillNormal({data_.data(), used * geometry_.block_bytes()}, 1);
  for (uint32_t unit = 0; unit < kKvHeads; ++unit) runs_.push_back({unit * blocks, blocks});
  positions_.resize(2 * used * engine::kBlockTokens);
  l2_norms_.resize(positions_.size());
  l1_norms_.resize(positions_.size());
  running_.resize(positions_.size());

  const size_t rows = static_cast<size_t>(layers) * kQueryHeads * kWindow;
  queries_.resize(rows * geometry_.token_bytes());
  FillNormal(queries_, 2);
  for (size_t at = 0; at < queries_.size(); at += 2) {
    uint16_t bf16 = 0;
    std::memcpy(&bf16, &queries_[at], sizeof(bf16));
    float_queries_.push_back(std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16));
  }

  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform;
  for (float& score : running_) score = uniform(random);
  for (int32_t i = 0; i < tokens; ++i) classes_.push_back(static_cast<uint8_t>(random() % 2));
  const size_t heads = static_cast<size_t>(layers) * kQueryHeads;
  projected_norms_.resize(static_cast<size_t>(layers) * kKvHeads * static_cast<size_t>(tokens));
  for (float& norm : projected_norms_) norm = 1 + uniform(random);
  for (size_t i = 0; i < heads * kHeadDim; ++i) query_mean_.push_back(uniform(random) - 0.5f);
  for (size_t i = 0; i < heads * kHeadDim * kHeadDim; ++i) {
    const bool diagonal = i / kHeadDim % kHeadDim == i % kHeadDim;
    query_covariance_.push_back(diagonal ? 1.0f : 0.01f * (uniform(random) - 0.5f));
  }
}

const engine::SequenceView& Fixture::Sequence(const engine::Policy& policy, const Shape& shape) {
  const bool l1 = policy.reads_norms() && policy.norm() == engine::Norm::kL1;
  const int32_t rows = policy.window == 0 ? kWindow : std::min(policy.window, kWindow);
  const int32_t observed = policy.running() ? shape.tokens - rows : 0;
  units_.clear();
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (const Run& run : runs_) {
      units_.push_back({.row = {&run, 1},
                        .length = shape.tokens,
                        .stored = 0,
                        .appended_position = 0,
                        .normed = shape.normed ? shape.tokens : 0,
                        .scored = observed});
    }
  }
  query_positions_.clear();
  for (int32_t row = 0; row < rows; ++row) query_positions_.push_back(shape.tokens - rows + row);

  view_.geometry = geometry_;
  view_.geometry.layers = shape.layers;
  view_.pool = {.data = data_.data(),
                .block_bytes = geometry_.block_bytes(),
                .positions = positions_.data(),
                .norms = l1 ? l1_norms_.data() : l2_norms_.data(),
                .running = running_.data()};
  view_.units = units_;
  view_.window = {
      .queries = shape.float_queries ? reinterpret_cast<const std::byte*>(float_queries_.data()) : queries_.data(),
      .dtype = shape.float_queries ? engine::DType::kF32 : geometry_.dtype,
      .rows = rows,
      .positions = query_positions_};
  const auto layers = static_cast<size_t>(shape.layers);
  const auto tokens = static_cast<size_t>(shape.tokens);
  view_.inputs = {.classes = std::span(classes_).first(tokens),
                  .scores = {},
                  .projected_norms = std::span(projected_norms_).first(layers * kKvHeads * tokens),
                  .query_mean = std::span(query_mean_).first(layers * kQueryHeads * kHeadDim),
                  .query_covariance = std::span(query_covariance_).first(layers * kQueryHeads * kHeadDim * kHeadDim)};
  view_.seen = shape.tokens;
  view_.observed = observed;
  view_.normed_kind = l1 ? engine::Norm::kL1 : engine::Norm::kL2Squared;
  return view_;
}

Run Fixture::FreeRun(int32_t unit) const {
  const Run& run = runs_[static_cast<size_t>(unit)];
  return {run.first + static_cast<uint32_t>(runs_.size()) * run.count, run.count};
}

void Fixture::ReadAll() const {
  volatile uint64_t sink = 0;
  uint64_t sum = 0;
  for (size_t at = 0; at < data_.size() / 2; at += 64) sum += static_cast<uint64_t>(data_.data()[at]);
  sink = sum;
  (void)sink;
}

engine::Policy WithWindow(engine::Policy policy) {
  if (policy.window > 1) policy.window = kWindow;
  return policy;
}

engine::Plan MakePlan(engine::Engine& engine, const engine::SequenceView& sequence, const engine::Policy& policy,
                      int64_t budget) {
  absl::StatusOr<std::unique_ptr<engine::Eviction>> eviction =
      engine.StartEviction(sequence, policy, {.kind = engine::Budget::Kind::kTokens, .amount = budget}, {});
  absl::Status status = eviction.status();
  while (status.ok() && !(*eviction)->finished()) status = (*eviction)->Step();
  if (!status.ok()) {
    std::fprintf(stderr, "kvsteward_bench: %s: %s\n", policy.name.c_str(), std::string(status.message()).c_str());
    std::exit(1);
  }
  return (*eviction)->TakePlan();
}

}  // namespace kvsteward::bench
