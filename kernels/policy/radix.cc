#include "kernels/policy/radix.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <numeric>
#include <utility>

namespace kvsteward::engine {
namespace {

constexpr int kKeyBits = 31;
constexpr int kLeastBits = 4;              // of a digit
constexpr int kMostBits = 11;              // four copies of the counts stay in the first cache
constexpr size_t kMostSlices = 64;         // each has counts of its own
constexpr size_t kWorthDigits = 2048;      // keys, to be sorted by digits
constexpr size_t kWorthThreads = 1 << 14;  // scores; waking a thread costs as much as reading them

// Counts the scores by the bits of `mask` above `shift`.
class DigitCounts {
 public:
  explicit DigitCounts(size_t bins) : bins_(bins) {}

  // counts()[bin] for all bins below `used`; of others nothing is known. REQUIRES: mask < the number of bins.
  void Count(std::span<const float> row, int shift, uint32_t mask, size_t used) {
    counts_.assign(kCopies * bins_, 0);
    const auto add = [&](size_t copy, float score) {
      ++counts_[copy * bins_ + (static_cast<uint32_t>(KeyOf(score)) >> shift & mask)];
    };
    size_t j = 0;
    for (; j + kCopies <= row.size(); j += kCopies) {
      for (size_t copy = 0; copy < kCopies; ++copy) add(copy, row[j + copy]);
    }
    for (; j < row.size(); ++j) add(0, row[j]);
    for (size_t copy = 1; copy < kCopies; ++copy) {
      for (size_t bin = 0; bin < used; ++bin) counts_[bin] += counts_[copy * bins_ + bin];
    }
  }

  uint32_t operator[](size_t bin) const { return counts_[bin]; }

 private:
  static constexpr size_t kCopies = 4;  // neighbouring scores are often alike: they do not wait for one counter

  size_t bins_;
  std::vector<uint32_t> counts_;
};

// Some of the rows, whose scores one task looks at.
struct Slice {
  size_t first = 0;
  size_t last = 0;
  std::vector<float> narrowed;     // what the rows have within the range so far
  std::vector<int64_t> competing;  // per value of the digit: ranks between the rows' bounds
};

}  // namespace

JointSelection SelectJointly(std::span<const std::span<const float>> rows, std::span<const int64_t> least,
                             std::span<const int64_t> most, int64_t total, const ParallelFor& parallel) {
  JointSelection selection{.counts = std::vector<int64_t>(least.begin(), least.end())};
  int64_t missing = total - std::accumulate(least.begin(), least.end(), int64_t{0});
  if (missing == 0) return selection;

  // Invariants: `inside[u]` are the row's scores within `range`, `above[u]` counts those over it; a row whose bounds
  // leave it no choice within the range has none inside. Of the ranks in the range, `missing` are still to be taken.
  std::vector<std::span<const float>> inside(rows.begin(), rows.end());
  std::vector<int64_t> above(rows.size(), 0);
  KeyRange range;
  const auto bounded = [&](size_t u, int64_t count) { return std::clamp(count, least[u], most[u]); };
  for (size_t u = 0; u < rows.size(); ++u) {
    if (least[u] == most[u]) inside[u] = {};
  }
  const auto size_inside = [&] {
    return std::transform_reduce(inside.begin(), inside.end(), size_t{0}, std::plus(),
                                 [](auto row) { return row.size(); });
  };

  size_t reading = size_inside();
  // As many values of a digit as a row has scores: to clear and add up the counts costs no more than to count.
  const int most_bits = std::clamp(static_cast<int>(std::bit_width(reading / rows.size())), kLeastBits, kMostBits);
  std::vector<Slice> slices(std::min(rows.size(), kMostSlices));
  for (size_t i = 0; i < slices.size(); ++i) {
    slices[i].first = rows.size() * i / slices.size();
    slices[i].last = rows.size() * (i + 1) / slices.size();
  }
  const ParallelFor serially = Serially;
  const auto for_each_slice = [&](const auto& body) {
    (reading < kWorthThreads ? serially : parallel)(static_cast<int64_t>(slices.size()),
                                                    [&](int64_t i) { body(slices[static_cast<size_t>(i)]); });
  };

  const auto narrow = [&](Slice& slice) {
    std::vector<float> narrowed;
    std::vector<size_t> begins;
    for (size_t u = slice.first; u < slice.last; ++u) {
      begins.push_back(narrowed.size());
      if (inside[u].empty()) continue;
      const KeyCount count = GatherKeys(inside[u], range, &narrowed);
      above[u] += count.above;
      if (bounded(u, above[u]) == bounded(u, above[u] + count.within)) narrowed.resize(begins.back());
    }
    begins.push_back(narrowed.size());
    for (size_t u = slice.first; u < slice.last; ++u) {
      const size_t i = u - slice.first;
      inside[u] = std::span(narrowed).subspan(begins[i], begins[i + 1] - begins[i]);
    }
    slice.narrowed = std::move(narrowed);
  };

  for (int left = kKeyBits; left > 0;) {
    const int bits = std::min(most_bits, left);
    const int shift = left - bits;
    const size_t bins = size_t{1} << bits;
    const bool first = left == kKeyBits;
    for_each_slice([&](Slice& slice) {
      if (!first) narrow(slice);
      slice.competing.assign(bins, 0);
      // Marks lie in the row that is read first: their sign is one bit more.
      DigitCounts counts(first ? 2 * bins : bins);
      for (size_t u = slice.first; u < slice.last; ++u) {
        if (inside[u].empty()) continue;
        counts.Count(inside[u], shift, static_cast<uint32_t>((first ? 2 * bins : bins) - 1), bins);
        int64_t rank = above[u];
        int64_t taken = bounded(u, rank);
        for (size_t bin = bins; bin-- > 0;) {
          if (counts[bin] == 0) continue;
          rank += counts[bin];
          const int64_t taken_next = bounded(u, rank);
          slice.competing[bin] += taken_next - taken;
          taken = taken_next;
        }
      }
    });
    size_t bin = bins;
    int64_t competing = 0;
    while (true) {
      --bin;
      competing = 0;
      for (const Slice& slice : slices) competing += slice.competing[bin];
      if (competing >= missing || bin == 0) break;
      missing -= competing;
    }
    range.low |= static_cast<int32_t>(bin << shift);
    range.high = range.low | static_cast<int32_t>((uint32_t{1} << shift) - 1);
    left = shift;
    reading = size_inside();
  }

  for_each_slice(narrow);
  selection.key = range.low;
  for (size_t u = 0; u < rows.size(); ++u) {
    selection.counts[u] = bounded(u, above[u]);
    const int64_t ties = bounded(u, above[u] + static_cast<int64_t>(inside[u].size())) - selection.counts[u];
    const int64_t given = std::min(ties, missing);
    selection.counts[u] += given;
    missing -= given;
  }
  return selection;
}

Cut FindCut(std::span<const float> row, int64_t count) {
  const int64_t none = 0;
  const JointSelection selection =
      SelectJointly(std::span(&row, 1), std::span(&none, 1), std::span(&count, 1), count, Serially);
  return {selection.key, count - CountKeys(row, {selection.key, selection.key}).above};
}

std::vector<int32_t> SortedKeys(std::span<const float> row) {
  std::vector<float> candidates;
  candidates.reserve(row.size());
  GatherKeys(row, {}, &candidates);
  std::vector<int32_t> keys(candidates.size());
  std::ranges::transform(candidates, keys.begin(), KeyOf);
  if (keys.size() < kWorthDigits) {
    std::ranges::sort(keys);
    return keys;
  }
  std::vector<int32_t> sorted(keys.size());
  for (int shift = 0; shift < kKeyBits; shift += kMostBits) {  // from the lowest digit, each stable
    constexpr uint32_t kMask = (1u << kMostBits) - 1;
    std::array<uint32_t, size_t{1} << kMostBits> next{};
    for (const int32_t key : keys) ++next[static_cast<uint32_t>(key) >> shift & kMask];
    uint32_t begin = 0;
    for (uint32_t& bin : next) begin += std::exchange(bin, begin);
    for (const int32_t key : keys) sorted[next[static_cast<uint32_t>(key) >> shift & kMask]++] = key;
    keys.swap(sorted);
  }
  return keys;
}

}  // namespace kvsteward::engine
