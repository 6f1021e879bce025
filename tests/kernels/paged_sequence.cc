#include "tests/kernels/paged_sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/policy/row.h"

namespace kvsteward::engine {
namespace {

constexpr int32_t kPoisonPosition = -1'000'000;

uint16_t ToF16(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  const double size = std::abs(value);
  if (size >= 65520) return sign | 0x7c00;
  if (size == 0) return sign;
  const int exponent = std::max(std::ilogb(size), -14);
  const auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + mantissa);
}

double FromF16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  if (exponent == 31) size = mantissa == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -size : size;
}

uint16_t ToBF16(double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

double Rounded(DType dtype, double value) {
  std::byte stored[4];
  Encode(dtype, value, stored);
  return Decode(dtype, stored);
}

void Encode(DType dtype, double value, std::byte* to) {
  const auto f32 = static_cast<float>(value);
  const uint16_t half = dtype == DType::kF16 ? ToF16(value) : ToBF16(value);
  if (dtype == DType::kF32) {
    std::memcpy(to, &f32, sizeof(f32));
  } else {
    std::memcpy(to, &half, sizeof(half));
  }
}

double Decode(DType dtype, const std::byte* from) {
  float f32 = 0;
  uint16_t half = 0;
  if (dtype == DType::kF32) {
    std::memcpy(&f32, from, sizeof(f32));
    return f32;
  }
  std::memcpy(&half, from, sizeof(half));
  return dtype == DType::kF16 ? FromF16(half) : std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

reference::Policy MirrorOf(const Policy& policy) {
  const auto reduce_rows = [](Accumulate a) {
    return a == Accumulate::kSum    ? reference::Reduce::kSum
           : a == Accumulate::kMean ? reference::Reduce::kMean
                                    : reference::Reduce::kMax;
  };
  const auto reduce_heads = [](Group g) {
    return g == Group::kSum    ? reference::Reduce::kSum
           : g == Group::kMean ? reference::Reduce::kMean
                               : reference::Reduce::kMax;
  };
  reference::Policy mirror;
  mirror.window = policy.window;
  mirror.signal = policy.signal.kind == Signal::Kind::kNone      ? reference::Signal::kNone
                  : policy.signal.kind == Signal::Kind::kSoftmax ? reference::Signal::kSoftmax
                                                                 : reference::Signal::kStepGainSoftmax;
  mirror.g_min = static_cast<double>(policy.signal.g_min_ppm) / 1e6;
  mirror.accumulate = reduce_rows(policy.accumulate);
  mirror.group = reduce_heads(policy.group);
  for (const Refinement& r : policy.refine) {
    const bool padded = r.edge == Refinement::Edge::kPadded;
    reference::Refinement m;
    switch (r.kind) {
      case Refinement::Kind::kMaxPool:
        m.kind = reference::Refine::kMaxPool;
        break;
      case Refinement::Kind::kAvgPool:
        m.kind = padded ? reference::Refine::kAvgPoolPadded : reference::Refine::kAvgPoolValid;
        break;
      case Refinement::Kind::kValuePrior:
        m.kind = reference::Refine::kValuePrior;
        break;
      case Refinement::Kind::kClampToMean:
        m.kind = reference::Refine::kClampToMean;
        break;
    }
    m.pool = r.pool;
    m.padded = padded;
    m.norm = r.norm == Refinement::Norm::kL2 ? reference::Norm::kL2 : reference::Norm::kL2Squared;
    m.scale = r.scale == Refinement::Scale::kMax    ? reference::Scale::kMax
              : r.scale == Refinement::Scale::kMean ? reference::Scale::kMean
                                                    : reference::Scale::kNone;
    mirror.refine.push_back(m);
  }
  mirror.sinks = policy.protect.sinks;
  mirror.recent = policy.protect.recent;
  mirror.recent_is_budget_minus = policy.protect.recent_kind == Protect::Recent::kBudgetMinus;
  mirror.head = policy.head.kind == HeadBudget::Kind::kUniform    ? reference::Head::kUniform
                : policy.head.kind == HeadBudget::Kind::kAdaFloor ? reference::Head::kAdaFloor
                                                                  : reference::Head::kAdaBlend;
  mirror.alpha_ppm = policy.head.alpha_ppm;
  return mirror;
}

PagedSequence::PagedSequence(PlainSequence plain, Placement placement, uint32_t seed, std::pmr::memory_resource* memory)
    : plain_(std::move(plain)),
      placement_(placement),
      random_(seed),
      data_(memory),
      positions_(memory),
      norms_(memory),
      queries_(memory),
      row_positions_(memory) {
  const reference::Sequence& contents = plain_.contents;
  geometry_ = {.layers = contents.layers,
               .query_heads = contents.query_heads,
               .kv_heads = contents.kv_heads,
               .head_dim = contents.head_dim,
               .dtype = plain_.dtype};
  // Room for a compaction of everything and for what tests append, and some more to scatter over.
  uint32_t blocks = 64;
  for (const reference::Unit& unit : contents.units) blocks += 3 * BlocksFor(unit.positions.size() + 64);
  data_.assign(blocks * geometry_.block_bytes(), std::byte{0xff});  // NaN in every dtype
  positions_.assign(size_t{blocks} * kBlockTokens, kPoisonPosition);
  norms_.assign(size_t{blocks} * kBlockTokens, std::numeric_limits<float>::quiet_NaN());
  used_.assign(blocks, false);
  pool_ = {data_.data(), geometry_.block_bytes(), positions_.data(), norms_.data()};

  for (size_t u = 0; u < contents.units.size(); ++u) {
    const auto length = static_cast<int32_t>(contents.units[u].positions.size());
    rows_.push_back(Allocate(BlocksFor(static_cast<uint64_t>(length))));
    const int32_t stored = plain_.stored[u];
    units_.push_back(
        {.row = rows_[u],
         .length = length,
         .stored = stored,
         .appended_position = stored < length ? static_cast<int32_t>(contents.units[u].positions[stored]) : 0,
         .normed = 0});
    for (int32_t j = 0; j < length; ++j) StoreToken(u, j);
  }
  StoreQueries();
}

SequenceView PagedSequence::View() {
  for (size_t u = 0; u < units_.size(); ++u) units_[u].row = rows_[u];
  return {.geometry = geometry_,
          .pool = pool_,
          .units = units_,
          .window = {.queries = queries_.data(),
                     .dtype = plain_.query_dtype,
                     .rows = static_cast<int32_t>(row_positions_.size()),
                     .positions = row_positions_},
          .seen = plain_.seen};
}

void PagedSequence::MarkNormed() {
  for (UnitView& unit : units_) unit.normed = unit.length;
}

void PagedSequence::Compact(Engine& engine, const Plan& plan) {
  for (size_t u = 0; u < units_.size(); ++u) {
    UnitView& unit = units_[u];
    unit.row = rows_[u];
    std::vector<Run> to = Allocate(BlocksFor(static_cast<uint64_t>(plan.kept[u])));
    engine.CompactUnit(geometry_, pool_, unit, plan.UnitMask(static_cast<int32_t>(u)), to);
    Free(rows_[u]);
    rows_[u] = std::move(to);

    reference::Unit& twin = plain_.contents.units[u];
    const auto d = static_cast<size_t>(geometry_.head_dim);
    reference::Unit kept;
    int32_t normed = 0;
    for (int32_t j = 0; j < unit.length; ++j) {
      if ((plan.UnitMask(static_cast<int32_t>(u))[j / 64] >> (j % 64) & 1) == 0) continue;
      normed += j < unit.normed ? 1 : 0;
      kept.positions.push_back(twin.positions[j]);
      kept.keys.insert(kept.keys.end(), &twin.keys[j * d], &twin.keys[j * d] + d);
      kept.values.insert(kept.values.end(), &twin.values[j * d], &twin.values[j * d] + d);
    }
    twin = std::move(kept);
    const auto length = static_cast<int32_t>(twin.positions.size());
    ASSERT_EQ(length, plan.kept[u]);
    plain_.stored[u] = length;
    unit = {.row = rows_[u], .length = length, .stored = length, .appended_position = 0, .normed = normed};
  }
}

void PagedSequence::Append(int32_t tokens, const std::function<double()>& draw) {
  for (size_t u = 0; u < units_.size(); ++u) {
    UnitView& unit = units_[u];
    reference::Unit& twin = plain_.contents.units[u];
    if (unit.stored == unit.length) unit.appended_position = static_cast<int32_t>(plain_.seen);
    const uint32_t have = BlocksFor(static_cast<uint64_t>(unit.length));
    const uint32_t need = BlocksFor(static_cast<uint64_t>(unit.length + tokens));
    for (const Run run : Allocate(need - have)) rows_[u].push_back(run);
    unit.row = rows_[u];
    for (int32_t t = 0; t < tokens; ++t) {
      twin.positions.push_back(plain_.seen + t);
      for (int32_t x = 0; x < geometry_.head_dim; ++x) twin.keys.push_back(Rounded(plain_.dtype, draw()));
      for (int32_t x = 0; x < geometry_.head_dim; ++x) twin.values.push_back(Rounded(plain_.dtype, draw()));
      StoreToken(u, unit.length++);
    }
  }
  plain_.seen += tokens;
  auto& rows = plain_.contents.row_positions;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = plain_.seen - static_cast<int64_t>(rows.size()) + static_cast<int64_t>(i);
  }
  for (double& q : plain_.contents.queries) q = Rounded(plain_.query_dtype, draw());
  StoreQueries();
}

void PagedSequence::SetKey(size_t u, int32_t j, int32_t x, double value) {
  plain_.contents.units[u].keys[static_cast<size_t>(j) * geometry_.head_dim + x] = value;
  StoreToken(u, j);
}

void PagedSequence::SetValue(size_t u, int32_t j, int32_t x, double value) {
  plain_.contents.units[u].values[static_cast<size_t>(j) * geometry_.head_dim + x] = value;
  StoreToken(u, j);
}

void PagedSequence::SetQuery(int32_t layer, int32_t head, int32_t row, int32_t x, double value) {
  const size_t rows = row_positions_.size();
  const size_t index = (static_cast<size_t>(layer) * geometry_.query_heads + head) * rows + row;
  plain_.contents.queries[index * geometry_.head_dim + x] = value;
  StoreQueries();
}

void PagedSequence::PoisonEverything() {
  std::fill(data_.begin(), data_.end(), std::byte{0xff});
  std::fill(queries_.begin(), queries_.end(), std::byte{0xff});
}

void PagedSequence::ExpectMemoryEqualsPlain() {
  for (size_t u = 0; u < units_.size(); ++u) {
    units_[u].row = rows_[u];
    const reference::Unit& twin = plain_.contents.units[u];
    for (int32_t j = 0; j < units_[u].length; ++j) {
      ASSERT_EQ(PositionOf(units_[u], pool_, j), twin.positions[j]) << "unit " << u << " token " << j;
      for (int32_t x = 0; x < geometry_.head_dim; ++x) {
        const size_t at = static_cast<size_t>(j) * geometry_.head_dim + x;
        const size_t offset = static_cast<size_t>(x) * SizeOf(plain_.dtype);
        ASSERT_EQ(Decode(plain_.dtype, TokenIn(u, j, false) + offset), twin.keys[at]) << "unit " << u << " token " << j;
        ASSERT_EQ(Decode(plain_.dtype, TokenIn(u, j, true) + offset), twin.values[at])
            << "unit " << u << " token " << j;
      }
    }
  }
}

std::vector<std::byte> PagedSequence::Snapshot() const {
  std::vector<std::byte> all(data_.begin(), data_.end());
  const auto* positions = reinterpret_cast<const std::byte*>(positions_.data());
  all.insert(all.end(), positions, positions + positions_.size() * sizeof(int32_t));
  all.insert(all.end(), queries_.begin(), queries_.end());
  return all;
}

std::vector<Run> PagedSequence::Allocate(uint32_t blocks) {
  std::vector<Run> row;
  const auto total = static_cast<uint32_t>(used_.size());
  uint32_t start = 0;
  while (blocks > 0) {
    if (placement_ == Placement::kScattered) start = static_cast<uint32_t>(random_() % total);
    while (used_[start]) start = (start + 1) % total;
    const uint32_t most = placement_ == Placement::kScattered ? 1 + static_cast<uint32_t>(random_() % 3) : blocks;
    Run run{start, 0};
    while (run.count < std::min(most, blocks) && run.end() < total && !used_[run.end()])
      used_[run.first + run.count++] = true;
    blocks -= run.count;
    row.push_back(run);
  }
  return row;
}

void PagedSequence::Free(const std::vector<Run>& row) {
  for (const Run& run : row) {
    for (uint32_t block = run.first; block < run.end(); ++block) {
      used_[block] = false;
      std::fill_n(pool_.keys(block), pool_.block_bytes, std::byte{0xff});
      std::fill_n(&positions_[size_t{block} * kBlockTokens], kBlockTokens, kPoisonPosition);
      std::fill_n(&norms_[size_t{block} * kBlockTokens], kBlockTokens, std::numeric_limits<float>::quiet_NaN());
    }
  }
}

size_t PagedSequence::SlotOf(size_t u, int32_t j) const {
  return size_t{BlockOf(rows_[u], static_cast<uint32_t>(j / kBlockTokens))} * kBlockTokens + j % kBlockTokens;
}

std::byte* PagedSequence::TokenIn(size_t u, int32_t j, bool value) {
  const size_t slot = SlotOf(u, j);
  const auto block = static_cast<uint32_t>(slot / kBlockTokens);
  return (value ? pool_.values(block) : pool_.keys(block)) + slot % kBlockTokens * geometry_.token_bytes();
}

void PagedSequence::StoreToken(size_t u, int32_t j) {
  const reference::Unit& twin = plain_.contents.units[u];
  for (int32_t x = 0; x < geometry_.head_dim; ++x) {
    const size_t at = static_cast<size_t>(j) * geometry_.head_dim + x;
    Encode(plain_.dtype, twin.keys[at], TokenIn(u, j, false) + x * SizeOf(plain_.dtype));
    Encode(plain_.dtype, twin.values[at], TokenIn(u, j, true) + x * SizeOf(plain_.dtype));
  }
  if (j < units_[u].stored) positions_[SlotOf(u, j)] = static_cast<int32_t>(twin.positions[j]);
}

void PagedSequence::StoreQueries() {
  const auto& queries = plain_.contents.queries;
  queries_.resize(queries.size() * SizeOf(plain_.query_dtype));
  for (size_t i = 0; i < queries.size(); ++i)
    Encode(plain_.query_dtype, queries[i], &queries_[i * SizeOf(plain_.query_dtype)]);
  row_positions_.assign(plain_.contents.row_positions.begin(), plain_.contents.row_positions.end());
}

}  // namespace kvsteward::engine
