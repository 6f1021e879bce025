// Whether a recording has what a policy reads.
#include <string>

#include "app/replay/replay_file.h"
#include "kernels/policy/names.h"

namespace kvsteward::replay {

absl::Status CheckTensors(const ReplayInput& input, const engine::Policy& policy) {
  const std::string signal = "signal " + NameOf(policy.signal.kind);
  const std::string refine = policy.reads_norms() ? "refine" : "head " + NameOf(policy.head.kind);
  const std::string classes =
      policy.protect.classes.empty() ? "select " + NameOf(policy.select.kind) : "protect.classes";
  const struct {
    const char* name;
    bool read;
    bool present;
    std::string stage;
    const char* shape;
  } tensors[] = {
      {"queries", policy.reads_queries(), !input.queries.empty(), signal, "[layers, query_heads, w, head_dim]"},
      {"keys", policy.reads_keys(), !input.keys.empty(), signal, "[layers, kv_heads, n, head_dim]"},
      {"values", policy.reads_values(), !input.values.empty(), refine, "[layers, kv_heads, n, head_dim]"},
      {"scores", policy.reads_scores(), !input.scores.empty(), signal, "F32 [layers, kv_heads, n]"},
      {"classes", policy.reads_classes(), !input.classes.empty(), classes, "U8 [seen]"},
      {"projected_norms", policy.reads_projected_norms(), !input.projected_norms.empty(),
       "select " + NameOf(policy.select.kind), "F32 [layers, kv_heads, n]"},
      {"query_mean", policy.reads_moments(), !input.query_mean.empty(), signal, "F32 [layers, query_heads, head_dim]"},
      {"query_cov", policy.reads_moments(), !input.query_covariance.empty(), signal,
       "F32 [layers, query_heads, head_dim, head_dim]"}};
  for (const auto& tensor : tensors) {
    if (!tensor.read || tensor.present) continue;
    return absl::InvalidArgumentError("tensor '" + std::string(tensor.name) + "' is missing; " + tensor.stage +
                                      " of policy " + policy.name + " reads it: record it as " + tensor.shape);
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::replay
