#include "kernels/cpu/bad_numbers.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/element.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {
namespace {

bool AllFinite(DType dtype, const std::byte* data, int32_t dim) {
  for (int32_t k = 0; k < dim; ++k) {
    if (!std::isfinite(Element(dtype, data, static_cast<size_t>(k)))) return false;
  }
  return true;
}

}  // namespace

absl::Status FindBadNumber(const SequenceView& sequence, int32_t layer, int32_t kv_head, const QueryRows& rows,
                           int32_t first_row, int32_t begin, int32_t end) {
  const Geometry& geometry = sequence.geometry;
  const WindowView& window = sequence.window;
  const UnitView& unit = sequence.units[static_cast<size_t>(layer) * geometry.kv_heads + kv_head];
  const size_t query_bytes = static_cast<size_t>(rows.dim) * SizeOf(window.dtype);
  const auto query = [&](int32_t row) {
    const size_t head = static_cast<size_t>(kv_head) * rows.heads + row / rows.rows_per_head;
    const int32_t in_window = first_row + row % rows.rows_per_head;
    const size_t in_layer = (static_cast<size_t>(layer) * geometry.query_heads + head) * window.rows + in_window;
    return window.queries + in_layer * query_bytes;
  };
  const auto place = [&](int32_t row) {
    return absl::StrCat("layer ", layer, ", query head ", kv_head * rows.heads + row / rows.rows_per_head, ", row ",
                        first_row + row % rows.rows_per_head);
  };

  for (int32_t row = 0; row < rows.count(); ++row) {
    if (!AllFinite(window.dtype, query(row), rows.dim)) {
      return absl::InvalidArgumentError(
          absl::StrCat("queries: ", place(row), " holds NaN or infinity; every number must be finite"));
    }
  }
  // Calls use(j, key) for every key; stops when that returns an error.
  const auto for_each_key = [&](const auto& use) {
    RowCursor cursor(unit.row, static_cast<uint32_t>(begin / kBlockTokens));
    for (int32_t j = begin; j < end; ++j) {
      const auto slot = static_cast<size_t>(j % kBlockTokens);
      absl::Status status = use(j, sequence.pool.keys(cursor.block()) + slot * geometry.token_bytes());
      if (!status.ok()) return status;
      if (slot == kBlockTokens - 1) cursor.Next();
    }
    return absl::OkStatus();
  };
  absl::Status status = for_each_key([&](int32_t j, const std::byte* key) {
    return AllFinite(geometry.dtype, key, rows.dim) ? absl::OkStatus() : BadKey(layer, kv_head, j);
  });
  if (!status.ok()) return status;
  // All products once more, slowly: only now, and as long as nobody calls it off.
  return for_each_key([&](int32_t j, const std::byte* key) -> absl::Status {
    if (sequence.stopped()) return absl::CancelledError("scoring was stopped within a layer");
    const CandidateSet* set = rows.open;
    const bool open = set == nullptr || (set->begin <= j && j < set->end && !std::ranges::binary_search(set->holes, j));
    for (int32_t row = 0; row < rows.count(); ++row) {
      if (j >= rows.visible[row] || !open) continue;
      double magnitude = 0;  // no order of adding overflows if this does not
      for (int32_t k = 0; k < rows.dim; ++k) {
        const auto at = static_cast<size_t>(k);
        magnitude += std::fabs(double{Element(window.dtype, query(row), at)} * Element(geometry.dtype, key, at));
      }
      if (magnitude * std::fmax(1.0, rows.scale[row]) > 0.999 * double{FLT_MAX}) {
        return absl::InvalidArgumentError(absl::StrCat("queries and keys: the logit of ", place(row), " and index ", j,
                                                       " of kv head ", kv_head,
                                                       " overflows float32; submit smaller numbers"));
      }
    }
    return absl::OkStatus();
  });
}

absl::Status BadKey(int32_t layer, int32_t kv_head, int32_t token) {
  return absl::InvalidArgumentError(absl::StrCat("keys: layer ", layer, ", kv head ", kv_head, ", index ", token,
                                                 " holds NaN or infinity; every number must be finite"));
}

absl::Status BadInput(std::string_view tensor, int32_t layer, int32_t kv_head, int32_t token) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(tensor), ": layer ", layer, ", kv head ", kv_head,
                                                 ", index ", token,
                                                 " is negative or not finite; every number must be at least 0"));
}

absl::Status BadValue(int32_t layer, int32_t kv_head, int32_t token) {
  return absl::InvalidArgumentError(absl::StrCat("values: layer ", layer, ", kv head ", kv_head, ", index ", token,
                                                 " has a norm that is not finite; every number must be finite "
                                                 "and its square within float32"));
}

absl::Status BadScore(int32_t layer, int32_t kv_head, int32_t token) {
  return absl::InvalidArgumentError(absl::StrCat("scores: layer ", layer, ", kv head ", kv_head, ", index ", token,
                                                 " is not finite when refined; submit smaller values, or scale the "
                                                 "value prior by their max or mean"));
}

}  // namespace kvsteward::engine::cpu
