// Regions in the host's memory that a device can write, too: its kernels publish rows of tables. Thread-compatible.
#pragma once

#include <memory>

#include "base/cuda/device_context.h"
#include "service/memory/backend.h"

namespace kvsteward::memory {

// Makes `host`'s regions, and registers those that only the daemon writes with the device for as long as they live.
// Where the driver refuses that (it may, since they are sealed), it has no address for the region: the engine sees that,
// and its caller writes there. The region's end waits for what the device still does.
std::unique_ptr<Backend> NewDeviceRegions(std::shared_ptr<const DeviceContext> context, std::unique_ptr<Backend> host);

}  // namespace kvsteward::memory
