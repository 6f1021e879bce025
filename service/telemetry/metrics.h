// Metrics in Prometheus' format. Counting is cheap and lock-light; gauges are read from core's status when somebody
// scrapes. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "service/core/effects.h"
#include "service/telemetry/identity.h"

namespace kvsteward::telemetry {

class Metrics {
 public:
  explicit Metrics(const Identity& identity);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // One RPC has been answered. `method` is "Evict"; the code is gRPC's.
  void CountCall(const std::string& method, int code, double seconds);
  // One sequence's eviction, or observation of `rows` query rows, has been answered. Policies that are no presets are
  // counted as "custom", since anybody may make as many as he likes. REQUIRES: the result has its policy.
  void CountEviction(const std::string& tenant, const core::EvictResult& result);
  void CountObservation(const std::string& tenant, int32_t rows, const core::ObserveResult& result);

  // Asked for at every scrape, on a thread of the exposer's; nothing if the answer takes too long.
  using AskStatus = std::function<std::optional<core::StatusReply>()>;
  // Everything as text, as a scrape gets it.
  std::string Text(const AskStatus& ask_status) const;
  // Answers scrapes of http://<address>/metrics until Hide or the end. UNAVAILABLE if nothing can listen there.
  absl::Status Expose(const std::string& address, AskStatus ask_status);
  void Hide();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;  // shared with scrapes under way
};

}  // namespace kvsteward::telemetry
