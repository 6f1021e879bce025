// The host's memory backend, for regions and for extents: sealed memfds.
#pragma once

#include <memory>

#include "service/memory/backend.h"

namespace kvsteward::memory {

std::unique_ptr<ExtentBackend> NewHostBackend();

}  // namespace kvsteward::memory
