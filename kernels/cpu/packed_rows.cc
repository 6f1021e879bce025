#include "kernels/cpu/packed_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/element.h"
#include "kernels/plan/row.h"
#include "kernels/plan/row_scale.h"

namespace kvsteward::engine::cpu {
namespace {

// How many residents have a position <= `position`.
int32_t VisibleCount(const UnitView& unit, const PoolView& pool, int32_t position) {
  int32_t low = 0;
  int32_t high = unit.length;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (PositionOf(unit, pool, middle) <= position) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

UsedRows::UsedRows(const SequenceView& the_sequence, const Policy& the_policy, int64_t budget, int32_t the_layer)
    : sequence(&the_sequence), policy(&the_policy), k(budget), layer(the_layer) {
  const WindowView& window = sequence->window;
  if (policy->window > 0) first = std::max(0, window.rows - policy->window);
  if (policy->running()) {
    const auto seen =
        std::ranges::lower_bound(window.positions.subspan(static_cast<size_t>(first)), sequence->observed);
    first = static_cast<int32_t>(seen - window.positions.begin());
  }
  count = window.rows - first;
}

const std::byte* UsedRows::Query(int32_t kv_head, int32_t row_in_head) const {
  const Geometry& geometry = sequence->geometry;
  const WindowView& window = sequence->window;
  const size_t query_head = static_cast<size_t>(kv_head) * geometry.group() + row_in_head / count;
  const size_t row =
      (static_cast<size_t>(layer) * geometry.query_heads + query_head) * window.rows + first + row_in_head % count;
  return window.queries + row * static_cast<size_t>(geometry.head_dim) * SizeOf(window.dtype);
}

// False if the queries are not for AMX.
bool PackedRows::PackAmx(const UsedRows& used, int32_t kv_head) {
  const Geometry& geometry = used.sequence->geometry;
  if (used.sequence->window.dtype != DType::kBF16 || geometry.dtype != DType::kBF16 || !AmxTakes(geometry.head_dim) ||
      !AmxAvailable()) {
    return false;
  }
  const auto dim = static_cast<size_t>(geometry.head_dim);
  const auto packed = static_cast<size_t>(used.in_head()) * dim;
  const auto all = static_cast<size_t>((used.in_head() + kAmxRows - 1) / kAmxRows * kAmxRows) * dim;
  amx_ = hwy::AllocateAligned<uint16_t>(all);
  std::fill(amx_.get() + packed, amx_.get() + all, uint16_t{0});
  for (int32_t row = 0; row < used.in_head(); ++row) {
    std::memcpy(amx_.get() + static_cast<size_t>(row) * dim, used.Query(kv_head, row), dim * 2);
  }
  if (AmxExact({amx_.get(), packed})) return true;
  amx_.reset();
  return false;
}

void PackedRows::PackPanels(const UsedRows& used, int32_t kv_head) {
  const auto dim = static_cast<size_t>(used.sequence->geometry.head_dim);
  const auto all = static_cast<size_t>((used.in_head() + kPanelRows - 1) / kPanelRows * kPanelRows) * dim;
  panels_ = hwy::AllocateAligned<float>(all);
  std::fill_n(panels_.get(), all, 0.0f);
  for (int32_t row = 0; row < used.in_head(); ++row) {
    float* to = panels_.get() + static_cast<size_t>(row / kPanelRows) * dim * kPanelRows + row % kPanelRows;
    const std::byte* query = used.Query(kv_head, row);
    for (size_t i = 0; i < dim; ++i) to[i * kPanelRows] = Element(used.sequence->window.dtype, query, i);
  }
}

void PackedRows::Pack(const UsedRows& used, int32_t kv_head, const CandidateSet* open) {
  if (!PackAmx(used, kv_head)) PackPanels(used, kv_head);
  const auto rows = static_cast<size_t>(used.in_head());
  const auto in_window = static_cast<size_t>(used.count);
  scale_.resize(rows);
  visible_.resize(rows);
  for (size_t row = 0; row < rows; ++row) {
    const int32_t position = used.PositionAt(static_cast<int32_t>(row));
    scale_[row] = row < in_window ? RowScale(used.policy->signal, used.k, position, used.sequence->geometry.head_dim)
                                  : scale_[row % in_window];
    visible_[row] =
        row < in_window ? VisibleCount(used.Unit(kv_head), used.sequence->pool, position) : visible_[row % in_window];
  }
  rows_ = {.heads = used.sequence->geometry.group(),
           .rows_per_head = used.count,
           .dim = used.sequence->geometry.head_dim,
           .min_visible = *std::ranges::min_element(visible_),
           .panels = panels_.get(),
           .amx = amx_.get(),
           .scale = scale_.data(),
           .visible = visible_.data(),
           .open = open};
}

}  // namespace kvsteward::engine::cpu
