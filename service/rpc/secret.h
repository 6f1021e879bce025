// Fresh secrets from the kernel: tickets and lease keys. Thread-safe.
#pragma once

#include "service/core/types.h"

namespace kvsteward::rpc {

core::Secret NewSecret();

}  // namespace kvsteward::rpc
