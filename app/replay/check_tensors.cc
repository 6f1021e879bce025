// Whether a recording has what a policy reads.
#include <string>

#include "app/replay/replay_file.h"

namespace kvsteward::replay {

absl::Status CheckTensors(const ReplayInput& input, const engine::Policy& policy) {
  const struct {
    const char* tensor;
    bool read;
    bool present;
  } tensors[] = {{"queries", policy.reads_queries(), !input.queries.empty()},
                 {"keys", policy.reads_keys(), !input.keys.empty()},
                 {"values", policy.reads_values(), !input.values.empty()},
                 {"scores", policy.reads_scores(), !input.scores.empty()},
                 {"classes", policy.reads_classes(), !input.classes.empty()},
                 {"projected_norms", policy.reads_projected_norms(), !input.projected_norms.empty()},
                 {"query_mean", policy.reads_moments(), !input.query_mean.empty()},
                 {"query_cov", policy.reads_moments(), !input.query_covariance.empty()}};
  for (const auto& t : tensors) {
    if (t.read && !t.present) {
      return absl::InvalidArgumentError(std::string("tensor '") + t.tensor + "' is missing; policy " + policy.name +
                                        " reads it");
    }
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::replay
