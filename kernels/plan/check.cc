#include "kernels/plan/check.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "kernels/plan/row.h"
#include "kernels/policy/names.h"

namespace kvsteward::engine {
namespace {

constexpr int32_t kMaxKvHeads = 4096;  // what the integer arithmetic of the head budgets carries
// Query rows of a kv head: bounds what is packed and how long a backend's partial sums are.
constexpr int64_t kMaxHeadRows = 8192;
constexpr int64_t kMaxHeadScores = int64_t{1} << 28;

absl::Status CheckGeometry(const Geometry& geometry, size_t units) {
  if (geometry.layers < 1 || geometry.kv_heads < 1 || geometry.kv_heads > kMaxKvHeads || geometry.head_dim < 1 ||
      geometry.query_heads < 1 || geometry.query_heads % geometry.kv_heads != 0) {
    return absl::InvalidArgumentError("geometry has " + std::to_string(geometry.layers) + " layers, " +
                                      std::to_string(geometry.query_heads) + " query heads, " +
                                      std::to_string(geometry.kv_heads) + " kv heads and head_dim " +
                                      std::to_string(geometry.head_dim) +
                                      "; all must be at least 1, kv heads at most 4096 and a divisor of query heads");
  }
  if (int64_t{geometry.layers} * geometry.kv_heads != static_cast<int64_t>(units)) {
    return absl::InvalidArgumentError("units has " + std::to_string(units) +
                                      " entries; it must have layers * kv_heads");
  }
  return absl::OkStatus();
}

absl::Status NoRows(const Policy& policy) {
  return absl::InvalidArgumentError("window has no query rows; signal " + NameOf(policy.signal.kind) + " of policy " +
                                    policy.name + " reads them, so send at least 1");
}

// REQUIRES: rows were given.
absl::Status CheckRows(const SequenceView& sequence, const Policy& policy) {
  const WindowView& window = sequence.window;
  if (window.rows < 1 || window.queries == nullptr) return NoRows(policy);
  if (window.positions.size() != static_cast<size_t>(window.rows)) {
    return absl::InvalidArgumentError("window.positions has " + std::to_string(window.positions.size()) +
                                      " entries; it must have one per row, " + std::to_string(window.rows));
  }
  int64_t previous = -1;
  for (const int32_t position : window.positions) {
    if (position <= previous || position >= sequence.seen) {
      return absl::InvalidArgumentError("window.positions has " + std::to_string(position) + " after " +
                                        std::to_string(previous) + "; they must ascend from 0 and stay below the " +
                                        std::to_string(sequence.seen) + " tokens seen");
    }
    previous = position;
  }
  const int64_t used = policy.window == 0 ? window.rows : std::min(policy.window, window.rows);
  if (used * sequence.geometry.group() > kMaxHeadRows) {
    return absl::InvalidArgumentError("window has " + std::to_string(used) + " rows that policy " + policy.name +
                                      " uses; with " + std::to_string(sequence.geometry.group()) +
                                      " query heads per kv head it must have at most " +
                                      std::to_string(kMaxHeadRows / sequence.geometry.group()));
  }
  return absl::OkStatus();
}

// What is kept of each query head until they are grouped: bounded, though no quota is charged for it.
absl::Status CheckHeadScores(const SequenceView& sequence, const Policy& policy) {
  if (policy.group.place != Group::Place::kAfterRefine && policy.signal.kind != Signal::Kind::kExpected) {
    return absl::OkStatus();
  }
  for (const UnitView& unit : sequence.units) {
    if (int64_t{unit.length} * sequence.geometry.group() <= kMaxHeadScores) continue;
    return absl::InvalidArgumentError("group of policy " + policy.name + " keeps the scores of " +
                                      std::to_string(sequence.geometry.group()) + " query heads for " +
                                      std::to_string(unit.length) +
                                      " tokens; use a policy that groups the heads of a windowed signal before_refine");
  }
  return absl::OkStatus();
}

absl::Status CheckWindow(const SequenceView& sequence, const Policy& policy) {
  if (!policy.reads_queries()) return absl::OkStatus();
  // Rows that were observed are in the running scores: no more are needed.
  if (policy.running() && sequence.observed > 0 && sequence.window.rows == 0) return absl::OkStatus();
  return CheckRows(sequence, policy);
}

// `reader`: the stage that reads the input. `wanted`: the entries that it must have, nothing if too many to be had.
absl::Status CheckInput(const std::string& reader, const std::string& input, size_t entries,
                        std::optional<size_t> wanted, const std::string& what) {
  if (wanted && entries == *wanted) return absl::OkStatus();
  if (entries == 0) return absl::InvalidArgumentError(reader + " reads " + input + "; the request gives none");
  return absl::InvalidArgumentError(input + " has " + std::to_string(entries) + " entries; " + reader + " needs " +
                                    (wanted ? std::to_string(*wanted) : "more than there can be") + ", one per " +
                                    what);
}

std::optional<size_t> Times(std::optional<size_t> a, int32_t b) {
  size_t product = 0;
  if (!a || __builtin_mul_overflow(*a, static_cast<size_t>(b), &product)) return std::nullopt;
  return product;
}

absl::Status CheckClasses(const SequenceView& sequence, const Policy& policy) {
  if (!policy.reads_classes()) return absl::OkStatus();
  const std::string reader = policy.protect.classes.empty() ? "select two_lists" : "protect.classes";
  const auto seen = static_cast<size_t>(std::max<int64_t>(0, sequence.seen));
  // More may have been flagged than was written so far.
  return CheckInput(reader, "classes", std::min(sequence.inputs.classes.size(), seen), seen, "token seen");
}

absl::Status CheckInputs(const SequenceView& sequence, const Policy& policy) {
  const Geometry& geometry = sequence.geometry;
  const InputView& inputs = sequence.inputs;
  size_t residents = 0;
  for (const UnitView& unit : sequence.units) residents += static_cast<size_t>(unit.length);
  if (policy.reads_scores()) {
    absl::Status status =
        CheckInput("signal submitted", "scores", inputs.scores.size(), residents, "resident token of each unit");
    if (!status.ok()) return status;
  }
  if (policy.reads_moments()) {
    const std::optional<size_t> mean =
        Times(Times(static_cast<size_t>(geometry.layers), geometry.query_heads), geometry.head_dim);
    absl::Status status =
        CheckInput("signal expected", "query_mean", inputs.query_mean.size(), mean, "layer, query head and component");
    if (!status.ok()) return status;
    status = CheckInput("signal expected", "query_covariance", inputs.query_covariance.size(),
                        Times(mean, geometry.head_dim), "layer, query head and pair of components");
    if (!status.ok()) return status;
  }
  if (policy.reads_projected_norms()) {
    absl::Status status = CheckInput("select two_stage", "projected_norms", inputs.projected_norms.size(), residents,
                                     "resident token of each unit");
    if (!status.ok()) return status;
  }
  return CheckClasses(sequence, policy);
}

absl::Status CheckTables(const Geometry& geometry, const Policy& policy) {
  const auto layers = static_cast<size_t>(geometry.layers);
  const auto kv_heads = static_cast<size_t>(geometry.kv_heads);
  if (policy.layer.kind == LayerBudget::Kind::kTable && policy.layer.table_ppm.size() != layers) {
    return absl::InvalidArgumentError("layer.weights has " + std::to_string(policy.layer.table_ppm.size()) +
                                      " numbers; it must have one per layer, " + std::to_string(layers));
  }
  if (policy.head.kind != HeadBudget::Kind::kTable) return absl::OkStatus();
  const std::vector<std::vector<int64_t>>& table = policy.head.table_ppm;
  if (table.size() != layers) {
    return absl::InvalidArgumentError("head.fractions has " + std::to_string(table.size()) +
                                      " lists; it must have one per layer, " + std::to_string(layers));
  }
  for (size_t l = 0; l < layers; ++l) {
    if (table[l].size() == kv_heads) continue;
    return absl::InvalidArgumentError("head.fractions[" + std::to_string(l) + "] has " +
                                      std::to_string(table[l].size()) + " numbers; it must have one per kv head, " +
                                      std::to_string(kv_heads));
  }
  return absl::OkStatus();
}

bool SamePositions(const UnitView& a, const UnitView& b, const PoolView& pool) {
  if (a.length != b.length) return false;
  const int32_t stored = std::max(a.stored, b.stored);
  // From `stored` on both were appended.
  if (stored < a.length && int64_t{a.appended_position} - a.stored != int64_t{b.appended_position} - b.stored) {
    return false;
  }
  RowCursor at_a(a.row);
  RowCursor at_b(b.row);
  const auto position = [&pool](const UnitView& unit, const RowCursor& at, int32_t j) -> int64_t {
    if (j >= unit.stored) return int64_t{unit.appended_position} + (j - unit.stored);
    return pool.positions[static_cast<size_t>(at.block()) * kBlockTokens + j % kBlockTokens];
  };
  for (int32_t j = 0; j < stored; ++j) {
    if (position(a, at_a, j) != position(b, at_b, j)) return false;
    if (j % kBlockTokens != kBlockTokens - 1) continue;
    at_a.Next();
    at_b.Next();
  }
  return true;
}

// One score row and one kept set for all heads of a layer needs the same tokens in all of them.
absl::Status CheckEqualPositions(const SequenceView& sequence, const Policy& policy) {
  if (policy.group.span != Group::Span::kLayer) return absl::OkStatus();
  const auto kv_heads = static_cast<size_t>(sequence.geometry.kv_heads);
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const UnitView& first = sequence.units[u - u % kv_heads];
    if (SamePositions(first, sequence.units[u], sequence.pool)) continue;
    return absl::InvalidArgumentError("group.span is layer, but kv heads 0 and " + std::to_string(u % kv_heads) +
                                      " of layer " + std::to_string(u / kv_heads) +
                                      " hold other tokens; evict with a span over the layer from the start");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckEviction(const SequenceView& sequence, const Policy& policy) {
  if (absl::Status status = Validate(policy); !status.ok()) return status;
  if (absl::Status status = CheckGeometry(sequence.geometry, sequence.units.size()); !status.ok()) return status;
  if (absl::Status status = CheckWindow(sequence, policy); !status.ok()) return status;
  if (absl::Status status = CheckHeadScores(sequence, policy); !status.ok()) return status;
  if (absl::Status status = CheckInputs(sequence, policy); !status.ok()) return status;
  if (absl::Status status = CheckTables(sequence.geometry, policy); !status.ok()) return status;
  return CheckEqualPositions(sequence, policy);
}

absl::Status CheckObservation(const SequenceView& sequence, const Policy& policy) {
  if (absl::Status status = Validate(policy); !status.ok()) return status;
  if (!policy.running()) {
    return absl::InvalidArgumentError("policy " + policy.name +
                                      " keeps no running scores; observing needs accumulate running");
  }
  if (absl::Status status = CheckGeometry(sequence.geometry, sequence.units.size()); !status.ok()) return status;
  if (absl::Status status = CheckRows(sequence, policy); !status.ok()) return status;
  if (policy.signal.over == Signal::Over::kCandidates) {
    if (absl::Status status = CheckClasses(sequence, policy); !status.ok()) return status;
  }
  if (absl::Status status = CheckEqualPositions(sequence, policy); !status.ok()) return status;
  int64_t next = sequence.observed;
  for (const int32_t position : sequence.window.positions) {
    if (position != next) {
      return absl::AbortedError("window.positions has " + std::to_string(position) + " where " + std::to_string(next) +
                                " comes next; observe every row once, in order");
    }
    ++next;
  }
  return absl::OkStatus();
}

bool SignalReadsBudget(const Policy& policy) {
  return policy.signal.kind == Signal::Kind::kStepGainSoftmax || policy.signal.over == Signal::Over::kCandidates;
}

}  // namespace kvsteward::engine
