// The files of `kvsteward replay`: recorded tensors in, a plan out. Everything a file says is checked here, so that who
// runs the engine on it, in process or in a sidecar, need not. Values; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/safetensors.h"
#include "kvsteward/engine/policy.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::replay {

// The recorded state of one sequence. A unit is a (layer, kv head), layer-major.
// Invariants: 0 <= lengths[u] <= tokens; a unit's first lengths[u] positions ascend from 0; query_positions ascend from
// 0; all are below `seen`; keys and values have the geometry's dtype.
struct ReplayInput {
  engine::Geometry geometry;  // query_heads is kv_heads where there are no queries
  int32_t tokens = 0;         // n: the width of a unit's row in the tensors
  int32_t rows = 0;           // w
  engine::DType query_dtype = engine::DType::kF32;
  std::span<const std::byte> keys;       // [layers, kv_heads, n, head_dim], or empty if the file has none; so below
  std::span<const std::byte> values;     // [layers, kv_heads, n, head_dim]
  std::span<const std::byte> queries;    // [layers, query_heads, w, head_dim], after RoPE
  std::vector<int32_t> lengths;          // [units] residents: the first ones of each row
  std::vector<int32_t> positions;        // [n], the same for every unit, or [units * n]
  std::vector<int32_t> query_positions;  // [w]
  int64_t seen = 0;                      // tokens seen

  // What some policies read besides, each empty if the file does not have it.
  std::vector<float> scores;                // all units' residents one after the other
  std::vector<float> projected_norms;       // likewise
  std::span<const uint8_t> classes;         // [seen], by position
  std::span<const float> query_mean;        // [layers, query_heads, head_dim]
  std::span<const float> query_covariance;  // [layers, query_heads, head_dim, head_dim]

  safetensors::File file;  // owns what the spans show

  size_t units() const { return lengths.size(); }
  // Positions of a unit's residents.
  std::span<const int32_t> UnitPositions(size_t unit) const {
    const size_t row = positions.size() == static_cast<size_t>(tokens) ? 0 : unit * static_cast<size_t>(tokens);
    return std::span(positions).subspan(row, static_cast<size_t>(lengths[unit]));
  }
};

// What an eviction decided, in the layout of the output tensors.
struct ReplayOutput {
  std::vector<uint8_t> keep;           // [units, n] 1: the resident stays
  std::vector<float> scores;           // [units, n] of candidates; 0 for protected ones, beyond lengths and on a no-op
  std::vector<int32_t> head_budgets;   // [units] residents that stay
  std::vector<int32_t> layer_budgets;  // [layers] their sums
  int32_t unsplit_layers = 0;          // layers in which `split` found room for no full head
  std::string backend;                 // which engine decided: "host", "cuda"
};

// Reads and checks the tensors above; others are ignored. INVALID_ARGUMENT in one sentence with the path and the
// tensor, NOT_FOUND if there is no such file.
absl::StatusOr<ReplayInput> LoadReplay(const std::string& path);

// INVALID_ARGUMENT naming the tensor if the policy reads one that the file does not have.
absl::Status CheckTensors(const ReplayInput& input, const engine::Policy& policy);

// Writes `keep`, `scores`, `head_budgets` and `layer_budgets`; metadata: policy (YAML), version, backend.
absl::Status WriteReplay(const std::string& path, const ReplayInput& input, const engine::Policy& policy,
                         const ReplayOutput& output);

}  // namespace kvsteward::replay
