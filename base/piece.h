// One of many copies from the host's memory to elsewhere: a device's, for example. A plain value.
#pragma once

#include <cstddef>
#include <span>

namespace kvsteward {

struct Piece {
  std::byte* to = nullptr;  // need not be an address of the host's
  std::span<const std::byte> from;
};

}  // namespace kvsteward
