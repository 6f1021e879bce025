// Who answers here. A plain value.
#pragma once

#include <string>

namespace kvsteward::telemetry {

// What the daemon says of itself.
struct Identity {
  std::string version;        // "0.1.0"
  std::string backend;        // "host"
  std::string export_method;  // "memfd"
};

}  // namespace kvsteward::telemetry
