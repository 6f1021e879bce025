// The selection `two_lists` (CSP): attention from rows of another class and from rows of the same class each pick a
// part of what stays. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>

namespace kvsteward::engine {

// Sets the bits of `share` candidates: of the best by `cross`, as many as have any and at most floor(part share); of
// the others that have any, the best by `self`; if slots are left, of the rest by `cross`. `scores`: a row as in
// scan.h that says which residents are candidates. REQUIRES: the marks' bits, and no others, are set; the row has
// `share` candidates; no negative `cross` or `self`.
void KeepTwoLists(int64_t part_ppm, std::span<const float> scores, std::span<const float> cross,
                  std::span<const float> self, int64_t share, std::span<uint64_t> mask);

}  // namespace kvsteward::engine
