#include <algorithm>
#include <cstdio>
#include <thread>

#include "app/commands.h"
#include "app/find_policy.h"
#include "app/replay/replay.h"
#include "app/replay/replay_file.h"
#include "app/replay_remote/replay_remote.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::app {
namespace {

absl::Status Run(const ReplayOptions& options) {
  const absl::StatusOr<engine::Policy> policy = FindPolicy(options.policy);
  if (!policy.ok()) return policy.status();
  const absl::StatusOr<engine::Budget> budget = engine::ParseBudget(options.budget);
  if (!budget.ok()) return budget.status();
  const absl::StatusOr<replay::ReplayInput> input = replay::LoadReplay(options.input);
  if (!input.ok()) return input.status();
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const absl::StatusOr<replay::ReplayOutput> output =
      options.address.empty() ? replay::ReplayInProcess(*input, *policy, *budget, threads)
                              : replay::ReplayInSidecar(*input, *policy, *budget, {options.address, options.fd_socket});
  if (!output.ok()) return output.status();

  for (size_t layer = 0; layer < output->layer_budgets.size(); ++layer) {
    std::printf("layer %zu keeps %d tokens:", layer, output->layer_budgets[layer]);
    const size_t heads = output->head_budgets.size() / output->layer_budgets.size();
    for (size_t head = 0; head < heads; ++head) std::printf(" %d", output->head_budgets[layer * heads + head]);
    std::puts("");
  }
  if (output->unsplit_layers > 0) {
    std::printf("in %d layers no head could keep everything\n", output->unsplit_layers);
  }
  return options.output.empty() ? absl::OkStatus() : replay::WriteReplay(options.output, *input, *policy, *output);
}

}  // namespace

int Replay(const ReplayOptions& options) {
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "kvsteward: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kNotFound ? 2 : 1;
}

}  // namespace kvsteward::app
