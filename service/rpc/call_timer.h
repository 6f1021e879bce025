// The time of one RPC, for its metrics. Immutable.
#pragma once

#include <chrono>

#include "grpcpp/support/status.h"
#include "service/telemetry/metrics.h"

namespace kvsteward::rpc {

class CallTimer {
 public:
  // Starts. `method` is a literal.
  CallTimer(telemetry::Metrics& metrics, const char* method) : metrics_(metrics), method_(method) {}

  // To be called once, before the call is finished.
  void Count(const grpc::Status& status) const {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    metrics_.CountCall(method_, status.error_code(), seconds.count());
  }

 private:
  telemetry::Metrics& metrics_;
  const char* const method_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kvsteward::rpc
