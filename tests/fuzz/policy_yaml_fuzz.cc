// Any bytes as a policy: refused, or valid and equal to itself after being printed and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "kvsteward/engine/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvsteward::engine;
  const auto policy = PolicyFromYaml(std::string(reinterpret_cast<const char*>(data), size));
  if (!policy.ok() || !Validate(*policy).ok()) return 0;
  const auto again = PolicyFromYaml(PolicyToYaml(*policy));
  if (!again.ok() || !(*again == *policy)) std::abort();
  return 0;
}
