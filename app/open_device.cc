#include "app/open_device.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/memory/cgroup.h"
#include "service/memory/host_backend.h"

#ifdef KVSTEWARD_HAS_CUDA
#include "base/cuda/device_context.h"
#include "kvsteward/engine/cuda.h"
#include "service/memory/cuda/cuda_backend.h"
#include "service/memory/cuda/device_regions.h"
#endif

namespace kvsteward::app {
namespace {

absl::StatusOr<OpenedDevice> OpenHost(const Config& config) {
  if (const uint64_t limit = memory::CgroupMemoryLimit(); config.arena.bytes > limit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "arena.bytes is ", config.arena.bytes, "; it must be at most what the memory control group allows, ", limit));
  }
  return OpenedDevice{memory::NewHostBackend(), memory::NewHostBackend(),
                      engine::NewHostEngine(static_cast<int>(config.device.threads)), ""};
}

#ifdef KVSTEWARD_HAS_CUDA

// What the books speak of is gone: there is nothing that could be done in order. Who restarts the process gets a fresh
// context.
void EndLost(const std::string& uuid, const std::string& error) {
  std::fprintf(stderr, "kvsteward: CUDA device %s is lost to this process: %s\n", uuid.c_str(), error.c_str());
  _exit(1);
}

absl::StatusOr<OpenedDevice> OpenCuda(const Config& config, std::shared_ptr<const DeviceContext> context) {
  OpenedDevice device;
  device.uuid = context->uuid();
  absl::StatusOr<std::unique_ptr<engine::Engine>> engine =
      engine::NewCudaEngine({.ordinal = context->ordinal(),
                             .host_threads = static_cast<int>(config.device.threads),
                             .on_lost = [uuid = device.uuid](const std::string& error) { EndLost(uuid, error); }});
  if (!engine.ok()) return engine.status();
  device.engine = *std::move(engine);
  absl::StatusOr<std::unique_ptr<memory::CudaBackend>> extents = memory::CudaBackend::Open(context);
  if (!extents.ok()) return extents.status();
  // The engine's memory is taken by now.
  const absl::Status fits = (*extents)->CheckArena(config.arena.bytes, config.arena.extent_bytes);
  if (!fits.ok()) return fits;
  device.extents = *std::move(extents);
  device.regions = memory::NewDeviceRegions(std::move(context), memory::NewHostBackend());
  return device;
}

absl::StatusOr<OpenedDevice> OpenCuda(const Config& config) {
  absl::StatusOr<std::shared_ptr<const DeviceContext>> context = DeviceContext::Open(config.device.uuid);
  if (!context.ok()) return context.status();
  return OpenCuda(config, *std::move(context));
}

#else

absl::StatusOr<OpenedDevice> OpenCuda(const Config&) {
  return absl::FailedPreconditionError("this build has no CUDA backend: build it where nvcc is");
}

#endif

}  // namespace

absl::StatusOr<OpenedDevice> OpenDevice(const Config& config) {
  if (config.device.kind == "host") return OpenHost(config);
  absl::StatusOr<OpenedDevice> device = OpenCuda(config);
  if (device.ok()) {
    spdlog::info("event=device kind=cuda uuid={}", device->uuid);
    return device;
  }
  const std::string why(device.status().message());
  // What can be changed is said, not passed over: which device, the sizes.
  const bool nothing_there = absl::IsFailedPrecondition(device.status());
  if (config.device.kind == "auto" && config.device.uuid.empty() && nothing_there) {
    spdlog::info("event=device kind=host reason=\"{}\"", why);
    return OpenHost(config);
  }
  if (absl::IsInvalidArgument(device.status())) return device;
  const std::string key = config.device.uuid.empty() ? "kind" : "uuid";
  return absl::Status(device.status().code(),
                      absl::StrCat("device.", key, " is ",
                                   config.device.uuid.empty() ? config.device.kind : config.device.uuid, ": ", why));
}

}  // namespace kvsteward::app
