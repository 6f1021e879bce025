#include "tests/kernels/paged_sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "kernels/plan/row.h"

namespace kvsteward::engine {
namespace {

constexpr int32_t kPoisonPosition = -1'000'000;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool Keeps(const Plan& plan, size_t u, int32_t j) {
  return (plan.UnitMask(static_cast<int32_t>(u))[j / 64] >> (j % 64) & 1) != 0;
}

// The bits of side-array entries: NaN equals itself.
uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

}  // namespace

PagedSequence::PagedSequence(PlainSequence plain, Placement placement, uint32_t seed, std::pmr::memory_resource* memory)
    : plain_(std::move(plain)),
      placement_(placement),
      random_(seed),
      data_(memory),
      positions_(memory),
      norms_(memory),
      running_(memory),
      queries_(memory),
      row_positions_(memory),
      classes_(memory),
      scores_(memory),
      projected_norms_(memory),
      query_mean_(memory),
      query_covariance_(memory) {
  const reference::Sequence& contents = plain_.contents;
  geometry_ = {.layers = contents.layers,
               .query_heads = contents.query_heads,
               .kv_heads = contents.kv_heads,
               .head_dim = contents.head_dim,
               .dtype = plain_.dtype};
  // Room for a compaction of everything and for what tests append, and some more to scatter over.
  uint32_t blocks = 32;
  for (const reference::Unit& unit : contents.units) {
    blocks += 2 * BlocksFor(unit.positions.size() + 112);
  }
  data_.assign(blocks * geometry_.block_bytes(), std::byte{0xff});  // NaN in every dtype
  positions_.assign(size_t{blocks} * kBlockTokens, kPoisonPosition);
  norms_.assign(size_t{blocks} * kBlockTokens, kNan);
  running_.assign(size_t{blocks} * kBlockTokens, kNan);
  used_.assign(blocks, false);
  pool_ = {.data = data_.data(),
           .block_bytes = geometry_.block_bytes(),
           .positions = positions_.data(),
           .norms = norms_.data(),
           .running = running_.data()};

  for (size_t u = 0; u < contents.units.size(); ++u) {
    const reference::Unit& twin = contents.units[u];
    const auto length = static_cast<int32_t>(twin.positions.size());
    rows_.push_back(Allocate(BlocksFor(static_cast<uint64_t>(length))));
    const int32_t stored = plain_.stored[u];
    units_.push_back({.row = rows_[u],
                      .length = length,
                      .stored = stored,
                      .appended_position = stored < length ? static_cast<int32_t>(twin.positions[stored]) : 0,
                      .normed = 0,
                      .scored = static_cast<int32_t>(twin.running.size())});
    for (int32_t j = 0; j < length; ++j) StoreToken(u, j);
    for (size_t j = 0; j < twin.running.size(); ++j) {
      running_[SlotOf(u, static_cast<int32_t>(j))] = static_cast<float>(twin.running[j]);
    }
  }
  StoreRequest();
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
          .inputs = {.classes = classes_,
                     .scores = scores_,
                     .projected_norms = projected_norms_,
                     .query_mean = query_mean_,
                     .query_covariance = query_covariance_},
          .seen = plain_.seen,
          .observed = plain_.contents.observed,
          .normed_kind = normed_kind_,
          .stop = nullptr};
}

void PagedSequence::SetRequest(Request request) {
  plain_.contents.queries = std::move(request.queries);
  plain_.contents.row_positions = std::move(request.row_positions);
  plain_.contents.inputs = std::move(request.inputs);
  StoreRequest();
}

void PagedSequence::MarkNormed(Norm kind) {
  for (UnitView& unit : units_) unit.normed = unit.length;
  normed_kind_ = kind;
}

void PagedSequence::MarkObserved() {
  for (size_t u = 0; u < units_.size(); ++u) {
    units_[u].scored = units_[u].length;
    reference::Row& twin = plain_.contents.units[u].running;
    twin.clear();
    for (int32_t j = 0; j < units_[u].length; ++j) twin.push_back(running_[SlotOf(u, j)]);
  }
  const std::vector<int64_t>& rows = plain_.contents.row_positions;
  if (!rows.empty()) plain_.contents.observed = std::max(plain_.contents.observed, rows.back() + 1);
}

void PagedSequence::Compact(Engine& engine, const Plan& plan) {
  const auto d = static_cast<size_t>(geometry_.head_dim);
  std::vector<reference::Unit> kept(units_.size());
  std::vector<std::vector<uint32_t>> norms(units_.size());
  std::vector<std::vector<uint32_t>> running(units_.size());
  std::vector<std::vector<Run>> to;
  std::vector<UnitMove> moves;
  for (size_t u = 0; u < units_.size(); ++u) {
    const reference::Unit& twin = plain_.contents.units[u];
    for (int32_t j = 0; j < units_[u].length; ++j) {
      if (!Keeps(plan, u, j)) continue;
      if (j < units_[u].normed) norms[u].push_back(Bits(norms_[SlotOf(u, j)]));
      if (j < units_[u].scored) {
        running[u].push_back(Bits(running_[SlotOf(u, j)]));
        kept[u].running.push_back(twin.running[j]);
      }
      kept[u].positions.push_back(twin.positions[j]);
      kept[u].keys.insert(kept[u].keys.end(), &twin.keys[j * d], &twin.keys[j * d] + d);
      kept[u].values.insert(kept[u].values.end(), &twin.values[j * d], &twin.values[j * d] + d);
    }
    ASSERT_EQ(static_cast<int32_t>(kept[u].positions.size()), plan.kept[u]);
    to.push_back(Allocate(BlocksFor(static_cast<uint64_t>(plan.kept[u]))));
    units_[u].row = rows_[u];
    moves.push_back({static_cast<int32_t>(u), to[u]});  // runs do not move
  }
  const absl::StatusOr<Publishing> publishing = engine.CompactUnits(View(), plan, moves, {});
  ASSERT_TRUE(publishing.ok()) << publishing.status();
  ASSERT_EQ(*publishing, Publishing::kByCaller);
  for (size_t u = 0; u < units_.size(); ++u) {
    Free(rows_[u]);
    rows_[u] = std::move(to[u]);
    plain_.contents.units[u] = std::move(kept[u]);
    plain_.stored[u] = plan.kept[u];
    units_[u] = {.row = rows_[u],
                 .length = plan.kept[u],
                 .stored = plan.kept[u],
                 .appended_position = 0,
                 .normed = static_cast<int32_t>(norms[u].size()),
                 .scored = static_cast<int32_t>(running[u].size())};
    for (size_t j = 0; j < norms[u].size(); ++j) {
      ASSERT_EQ(Bits(norms_[SlotOf(u, static_cast<int32_t>(j))]), norms[u][j]) << "unit " << u << " norm " << j;
    }
    for (size_t j = 0; j < running[u].size(); ++j) {
      ASSERT_EQ(Bits(running_[SlotOf(u, static_cast<int32_t>(j))]), running[u][j]) << "unit " << u << " running " << j;
    }
  }
}

void PagedSequence::Append(const std::vector<reference::Unit>& tokens) {
  const size_t count = tokens[0].keys.size() / static_cast<size_t>(geometry_.head_dim);
  for (size_t u = 0; u < units_.size(); ++u) {
    UnitView& unit = units_[u];
    reference::Unit& twin = plain_.contents.units[u];
    const bool follows = !twin.positions.empty() && twin.positions.back() + 1 == plain_.seen;
    if (unit.stored < unit.length && !follows) {  // what was appended ends before: its positions are given from now on
      unit.stored = unit.length;
      for (int32_t j = 0; j < unit.length; ++j) StoreToken(u, j);
    }
    if (unit.stored == unit.length) unit.appended_position = static_cast<int32_t>(plain_.seen);
    const uint32_t have = BlocksFor(static_cast<uint64_t>(unit.length));
    const uint32_t need = BlocksFor(static_cast<uint64_t>(unit.length) + count);
    for (const Run run : Allocate(need - have)) rows_[u].push_back(run);
    unit.row = rows_[u];
    twin.keys.insert(twin.keys.end(), tokens[u].keys.begin(), tokens[u].keys.end());
    twin.values.insert(twin.values.end(), tokens[u].values.begin(), tokens[u].values.end());
    for (size_t t = 0; t < count; ++t) {
      twin.positions.push_back(plain_.seen + static_cast<int64_t>(t));
      StoreToken(u, unit.length++);
    }
  }
  plain_.seen += static_cast<int64_t>(count);
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
  StoreRequest();
}

void PagedSequence::EditInputs(const std::function<void(reference::Inputs&)>& edit) {
  edit(plain_.contents.inputs);
  StoreRequest();
}

void PagedSequence::PoisonEverything() {
  std::fill(data_.begin(), data_.end(), std::byte{0xff});
  std::fill(queries_.begin(), queries_.end(), std::byte{0xff});
  for (auto* floats : {&running_, &scores_, &projected_norms_, &query_mean_, &query_covariance_}) {
    std::fill(floats->begin(), floats->end(), kNan);
  }
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

std::string PagedSequence::Snapshot() const {
  std::string all;
  const auto add = [&](const auto& memory) {
    all.append(reinterpret_cast<const char*>(memory.data()), memory.size() * sizeof(memory[0]));
  };
  add(data_);
  add(positions_);
  add(running_);
  add(queries_);
  add(classes_);
  for (const auto* floats : {&scores_, &projected_norms_, &query_mean_, &query_covariance_}) add(*floats);
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
      const size_t slot = size_t{block} * kBlockTokens;
      used_[block] = false;
      std::fill_n(pool_.keys(block), pool_.block_bytes, std::byte{0xff});
      std::fill_n(&positions_[slot], kBlockTokens, kPoisonPosition);
      std::fill_n(&norms_[slot], kBlockTokens, kNan);
      std::fill_n(&running_[slot], kBlockTokens, kNan);
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

void PagedSequence::StoreRequest() {
  const reference::Sequence& contents = plain_.contents;
  queries_.resize(contents.queries.size() * SizeOf(plain_.query_dtype));
  for (size_t i = 0; i < contents.queries.size(); ++i)
    Encode(plain_.query_dtype, contents.queries[i], &queries_[i * SizeOf(plain_.query_dtype)]);
  row_positions_.assign(contents.row_positions.begin(), contents.row_positions.end());

  const reference::Inputs& inputs = contents.inputs;
  classes_.assign(inputs.classes.begin(), inputs.classes.end());
  query_mean_.assign(inputs.query_mean.begin(), inputs.query_mean.end());
  query_covariance_.assign(inputs.query_covariance.begin(), inputs.query_covariance.end());
  scores_.clear();
  for (const reference::Row& unit : inputs.scores) scores_.insert(scores_.end(), unit.begin(), unit.end());
  projected_norms_.clear();
  for (const reference::Row& unit : inputs.projected_norms) {
    projected_norms_.insert(projected_norms_.end(), unit.begin(), unit.end());
  }
}

}  // namespace kvsteward::engine
