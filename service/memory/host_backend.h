// The host's memory backend: sealed memfds.
#pragma once

#include <memory>

#include "service/memory/backend.h"

namespace kvsteward::memory {

std::unique_ptr<Backend> NewHostBackend();

}  // namespace kvsteward::memory
