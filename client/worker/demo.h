// The demo: every policy at every budget on both kinds of prompts, over a running sidecar.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/worker/arena.h"

namespace kvsteward::worker {

struct DemoOptions {
  std::string address;    // the sidecar's, e.g. "unix:/run/kvsteward/kvsteward.sock"
  std::string fd_socket;  // path of the tenant's fd socket
  std::string model;      // path of the weights
  Device device = Device::kHost;
  uint32_t prompts = 24;  // of each kind
  std::string out_json;   // paths, nothing is written where empty
  std::string out_html;
};

// Prints the table to stdout and progress to stderr. Fails with the first row that does not succeed; then no report is
// written.
absl::Status RunDemo(const DemoOptions& options);

}  // namespace kvsteward::worker
