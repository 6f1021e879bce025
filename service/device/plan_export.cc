#include "service/device/plan_export.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kvsteward/shm.h"

namespace kvsteward::device {
namespace {

// Where everything lies, from kvs_plan: header, unit plans, then unit by unit its mask, index list and scores. Core
// makes room for lists at multiples of 64.
std::vector<kvs_unit_plan> LayOut(const engine::Plan& plan, std::span<const engine::UnitView> units, bool scores,
                                  uint64_t* bytes) {
  std::vector<kvs_unit_plan> unit_plans(units.size());
  uint64_t end = sizeof(kvs_plan) + kvs_align(units.size() * sizeof(kvs_unit_plan));
  const auto place = [&](uint64_t list_bytes) {
    const uint64_t offset = end;
    end += kvs_align(list_bytes);
    return offset;
  };
  for (size_t u = 0; u < units.size(); ++u) {
    kvs_unit_plan& unit = unit_plans[u];
    unit.residents = static_cast<uint32_t>(units[u].length);
    unit.kept = static_cast<uint32_t>(plan.kept[u]);
    unit.mask_offset = place(plan.UnitMask(static_cast<int32_t>(u)).size_bytes());
    unit.indices_offset = place(uint64_t{unit.kept} * sizeof(uint32_t));
    if (scores) unit.scores_offset = place(uint64_t{unit.residents} * sizeof(float));
  }
  *bytes = end;
  return unit_plans;
}

}  // namespace

absl::Status ExportPlan(const engine::Plan& plan, std::span<const engine::UnitView> units, core::SequenceId sequence,
                        bool scores, const core::PlanPlace& place, std::span<std::byte> region) {
  uint64_t bytes = 0;
  const std::vector<kvs_unit_plan> unit_plans = LayOut(plan, units, scores, &bytes);
  if (bytes > place.bytes || place.offset > region.size() || bytes > region.size() - place.offset ||
      place.offset % alignof(uint64_t) != 0) {
    return absl::ResourceExhaustedError("the plan has " + std::to_string(bytes) +
                                        " bytes; its place in the plan region of " + std::to_string(region.size()) +
                                        " bytes holds " + std::to_string(place.bytes));
  }
  std::byte* const base = region.data() + place.offset;
  const kvs_plan header{.magic = KVS_SHM_MAGIC,
                        .units = static_cast<uint32_t>(units.size()),
                        .sequence = sequence,
                        .bytes = bytes,
                        .budget_tokens = static_cast<uint32_t>(plan.budget_tokens),
                        .no_op = plan.no_op,
                        .reserved = {}};
  std::memcpy(base, &header, sizeof(header));
  std::memcpy(base + sizeof(header), unit_plans.data(), unit_plans.size() * sizeof(kvs_unit_plan));

  const size_t layers = plan.layer_budgets.size();
  const size_t heads = units.size() / layers;
  for (size_t u = 0; u < units.size(); ++u) {
    const kvs_unit_plan& unit = unit_plans[u];
    const std::span<const uint64_t> mask = plan.UnitMask(static_cast<int32_t>(u));
    std::memcpy(base + unit.mask_offset, mask.data(), mask.size_bytes());
    auto* index = reinterpret_cast<uint32_t*>(base + unit.indices_offset);
    for (size_t word = 0; word < mask.size(); ++word) {
      for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
        *index++ = static_cast<uint32_t>(word * 64 + static_cast<size_t>(std::countr_zero(bits)));
      }
    }
    if (!scores) continue;
    auto* const out = reinterpret_cast<float*>(base + unit.scores_offset);
    if (plan.scores.empty()) {
      std::memset(out, 0, unit.residents * sizeof(float));
      continue;
    }
    const engine::LayerScores& layer = plan.scores[u / heads];
    const float* const in = layer.scores.data() + layer.offsets[u % heads];
    for (uint32_t j = 0; j < unit.residents; ++j) out[j] = in[j] == engine::kProtected ? 0.0f : in[j];
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::device
