// What device.kind comes to on this machine: where extents lie, what computes, and who that is.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "app/config.h"
#include "kvsteward/engine/engine.h"
#include "service/memory/backend.h"

namespace kvsteward::app {

struct OpenedDevice {
  std::unique_ptr<memory::Backend> regions;
  std::unique_ptr<memory::ExtentBackend> extents;
  std::unique_ptr<engine::Engine> engine;
  std::string uuid;  // empty: the host
};

// `auto` is CUDA if this build has it and the machine a device, else the host; which it is, and why, is logged.
// Refuses, in one sentence that names the key, what the machine cannot do: another device, an arena larger than the
// memory it has, extents that it cannot make. A device that is lost later ends the process at once, with CUDA's name
// for the cause.
absl::StatusOr<OpenedDevice> OpenDevice(const Config& config);

}  // namespace kvsteward::app
