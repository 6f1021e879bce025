#include "kernels/plan/block_shares.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <queue>
#include <utility>

#include "kernels/plan/radix.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine {
namespace {

// What a head would give up next, at the key of the last of it.
struct Offer {
  int32_t key;
  size_t head;

  bool operator<(const Offer& other) const {  // the cheapest is the greatest, of equal ones the higher head's
    return key != other.key ? key > other.key : head < other.head;
  }
};

}  // namespace

std::vector<int64_t> BlockShares(std::span<const std::span<const float>> scores, std::span<const int64_t> sizes,
                                 std::span<const int64_t> floors, int64_t total, const ParallelFor& parallel) {
  const size_t heads = sizes.size();
  std::vector<std::vector<int32_t>> keys(heads);  // ascending
  parallel(static_cast<int64_t>(heads),
           [&](int64_t head) { keys[static_cast<size_t>(head)] = SortedKeys(scores[static_cast<size_t>(head)]); });

  std::vector<int64_t> kept(sizes.begin(), sizes.end());
  int64_t over = std::accumulate(kept.begin(), kept.end(), int64_t{0}) - total;
  // Gives up the cheapest offers. step(head) is how many candidates its next one holds; floor(head) what must remain.
  const auto give_up = [&](const auto& step, const auto& floor) {
    std::priority_queue<Offer> offers;
    const auto offer = [&](size_t head) {
      const int64_t left = kept[head] - step(head);
      if (left >= floor(head)) offers.push({keys[head][static_cast<size_t>(sizes[head] - left - 1)], head});
    };
    for (size_t head = 0; head < heads; ++head) offer(head);
    while (over > 0 && !offers.empty()) {
      const size_t head = offers.top().head;
      offers.pop();
      over -= step(head);
      kept[head] -= step(head);
      offer(head);
    }
  };
  // Residents leave their last block first: it is partial until the head has given up its first.
  const auto block = [&](size_t head) {
    const auto residents = static_cast<int64_t>(scores[head].size());
    return kept[head] == sizes[head] ? (residents + kBlockTokens - 1) % kBlockTokens + 1 : int64_t{kBlockTokens};
  };
  give_up(block, [&](size_t head) { return floors[head]; });
  give_up(block, [](size_t) { return int64_t{0}; });
  give_up([](size_t) { return int64_t{1}; }, [](size_t) { return int64_t{0}; });
  return kept;
}

}  // namespace kvsteward::engine
