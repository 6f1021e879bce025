#include "kernels/plan/scan.h"

#include <algorithm>
#include <cstddef>

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/plan/scan.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kWord = 64;  // scores whose bits one word holds

// Bit i: the key of scores[i] is above `key`.
HWY_INLINE uint64_t Above(const float* scores, int32_t key) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  uint64_t word = 0;
  for (size_t i = 0; i < kWord; i += lanes) {
    uint64_t bits = 0;
    hn::StoreMaskBits(di, hn::Gt(hn::BitCast(di, hn::LoadU(d, scores + i)), hn::Set(di, key)),
                      reinterpret_cast<uint8_t*>(&bits));
    word |= bits << i;
  }
  return word;
}

// Calls use(word, scores) for every 64 of the row's scores; marks fill up the last ones, if they are fewer.
template <class Use>
HWY_INLINE void ForEachWord(std::span<const float> row, const Use& use) {
  const size_t whole = row.size() / kWord;
  for (size_t word = 0; word < whole; ++word) use(word, row.data() + word * kWord);
  if (row.size() % kWord == 0) return;
  float rest[kWord];
  std::fill(std::copy(row.begin() + static_cast<ptrdiff_t>(whole * kWord), row.end(), rest), rest + kWord, -1.0f);
  use(whole, rest);
}

KeyCount CountKeys(std::span<const float> row, KeyRange range) {
  KeyCount count;
  ForEachWord(row, [&](size_t, const float* scores) {
    const uint64_t above = Above(scores, range.high);
    count.above += std::popcount(above);
    count.within += std::popcount(Above(scores, range.low - 1) & ~above);
  });
  return count;
}

KeyCount GatherKeys(std::span<const float> row, KeyRange range, std::vector<float>* out) {
  KeyCount count;
  ForEachWord(row, [&](size_t, const float* scores) {
    const uint64_t above = Above(scores, range.high);
    uint64_t within = Above(scores, range.low - 1) & ~above;
    count.above += std::popcount(above);
    count.within += std::popcount(within);
    if (within == ~uint64_t{0}) {
      out->insert(out->end(), scores, scores + kWord);
      return;
    }
    for (; within != 0; within &= within - 1) out->push_back(scores[std::countr_zero(within)]);
  });
  return count;
}

int64_t KeepMarks(std::span<const float> row, std::span<uint64_t> mask) {
  int64_t marks = 0;
  ForEachWord(row, [&](size_t word, const float* scores) {
    const size_t left = row.size() - word * kWord;
    const uint64_t there = left < kWord ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
    const uint64_t keep = ~Above(scores, -1) & there;
    mask[word] |= keep;
    marks += std::popcount(keep);
  });
  return marks;
}

void KeepAbove(std::span<const float> row, Cut cut, std::span<uint64_t> mask) {
  int64_t ties = cut.ties;
  ForEachWord(row, [&](size_t word, const float* scores) {
    uint64_t keep = Above(scores, cut.key);
    if (ties > 0) {
      uint64_t equal = Above(scores, cut.key - 1) & ~keep;
      const int64_t given = std::min<int64_t>(ties, std::popcount(equal));
      ties -= given;
      if (std::popcount(equal) == given) {
        keep |= equal;
      } else {
        for (int64_t i = 0; i < given; ++i, equal &= equal - 1) keep |= equal & (~equal + 1);
      }
    }
    mask[word] |= keep;
  });
}

}  // namespace
}  // namespace kvsteward::engine::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine {

HWY_EXPORT(CountKeys);
KeyCount CountKeys(std::span<const float> row, KeyRange range) { return HWY_DYNAMIC_DISPATCH(CountKeys)(row, range); }

HWY_EXPORT(GatherKeys);
KeyCount GatherKeys(std::span<const float> row, KeyRange range, std::vector<float>* out) {
  return HWY_DYNAMIC_DISPATCH(GatherKeys)(row, range, out);
}

HWY_EXPORT(KeepMarks);
int64_t KeepMarks(std::span<const float> row, std::span<uint64_t> mask) {
  return HWY_DYNAMIC_DISPATCH(KeepMarks)(row, mask);
}

HWY_EXPORT(KeepAbove);
void KeepAbove(std::span<const float> row, Cut cut, std::span<uint64_t> mask) {
  HWY_DYNAMIC_DISPATCH(KeepAbove)(row, cut, mask);
}

}  // namespace kvsteward::engine
#endif
