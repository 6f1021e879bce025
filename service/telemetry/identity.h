// Who answers here. A plain value.
#pragma once

#include <string>

namespace kvsteward::telemetry {

// What the daemon says of itself.
struct Identity {
  std::string version;           // "0.1.0"
  std::string backend;           // "host", "cuda"
  std::string export_method;     // "memfd", "cuda-posix-fd"
  std::string device_uuid = {};  // of the device that has the extents; empty: the host has
};

}  // namespace kvsteward::telemetry
