// Which policies can work. Each message names the stage, the field, its value and what is allowed.
#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "kernels/policy/decimal.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

constexpr int32_t kMaxPool = 4095;
constexpr size_t kMaxName = 64;
constexpr size_t kMaxRefine = 16;

std::string Decimal(int64_t ppm) { return ppm < 0 ? "negative" : PrintDecimal(ppm, 6); }

absl::Status Wrong(const std::string& field, const std::string& value, const std::string& allowed) {
  return absl::InvalidArgumentError(field + " is " + value + "; it must be " + allowed);
}

// Names become labels of metrics and of reports.
bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

absl::Status ValidateRefinement(const Refinement& refinement, size_t index) {
  if (refinement.pool < 1 || refinement.pool > kMaxPool || refinement.pool % 2 == 0) {
    return Wrong("refine[" + std::to_string(index) + "].pool", std::to_string(refinement.pool),
                 "odd, from 1 to " + std::to_string(kMaxPool));
  }
  return absl::OkStatus();
}

}  // namespace

bool Policy::reads_values() const {
  return std::any_of(refine.begin(), refine.end(),
                     [](const Refinement& r) { return r.kind == Refinement::Kind::kValuePrior; });
}

absl::Status Validate(const Policy& policy) {
  if (!IsName(policy.name)) {
    return Wrong("name", "'" + policy.name.substr(0, kMaxName) + "'",
                 "1 to 64 lower-case letters, digits, '-', '_' or '.'");
  }
  if (policy.window < 1) return Wrong("window", std::to_string(policy.window), "at least 1");
  if (policy.signal.g_min_ppm < 0) return Wrong("signal.g_min", Decimal(policy.signal.g_min_ppm), "at least 0");
  if (policy.signal.g_min_ppm != 0 && policy.signal.kind != Signal::Kind::kStepGainSoftmax) {
    return Wrong("signal.g_min", Decimal(policy.signal.g_min_ppm), "absent: only sg_softmax has a gain");
  }
  if (policy.signal.kind == Signal::Kind::kNone && !policy.refine.empty()) {
    return Wrong("refine", "a list of " + std::to_string(policy.refine.size()),
                 "empty: with the signal none a score is a position, which has nothing to refine");
  }
  if (policy.refine.size() > kMaxRefine) {
    return Wrong("refine", "a list of " + std::to_string(policy.refine.size()),
                 "at most " + std::to_string(kMaxRefine) + " long: each entry reads every score");
  }
  for (size_t i = 0; i < policy.refine.size(); ++i) {
    if (absl::Status status = ValidateRefinement(policy.refine[i], i); !status.ok()) return status;
  }
  if (policy.protect.sinks < 0) return Wrong("protect.sinks", std::to_string(policy.protect.sinks), "at least 0");
  if (policy.protect.recent < 0) return Wrong("protect.recent", std::to_string(policy.protect.recent), "at least 0");
  if (policy.head.alpha_ppm < 0 || policy.head.alpha_ppm > kPpm) {
    return Wrong("head.alpha", Decimal(policy.head.alpha_ppm), "from 0 to 1");
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::engine
