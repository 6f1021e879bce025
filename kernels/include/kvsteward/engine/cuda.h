// The CUDA engine. It plans and compacts sequences whose blocks and side arrays lie in the memory of one device;
// windows and inputs lie on the host. Policies whose every stage has a kernel run on the device; all others run on the
// host, over a copy of what they read.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

struct CudaOptions {
  int ordinal = 0;       // the device, as this process numbers it
  int host_threads = 1;  // of the host engine for policies that run there

  // The device is lost to this process: whatever is asked of it fails from now on. `error` is CUDA's name for the
  // cause. May be called on any thread that uses the engine, more than once.
  std::function<void(const std::string& error)> on_lost = nullptr;
};

// FAILED_PRECONDITION, in one sentence, if there is no driver or no such device; RESOURCE_EXHAUSTED if it has too
// little memory left.
absl::StatusOr<std::unique_ptr<Engine>> NewCudaEngine(const CudaOptions& options);

// Whether every stage of the policy has a kernel.
bool RunsOnDevice(const Policy& policy);

}  // namespace kvsteward::engine
