// A policy as the reference reads it. Stateless.
#pragma once

#include "kvsteward/engine/policy.h"
#include "tests/reference/policy.h"

namespace kvsteward::engine {

reference::Policy MirrorOf(const Policy& policy);

}  // namespace kvsteward::engine
