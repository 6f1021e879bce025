// Random and adversarial sequences and policies for tests of an engine. Pure functions of their seed.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "tests/kernels/paged_sequence.h"

namespace kvsteward::engine {

using Random = std::mt19937;

// What the numbers of a sequence are like.
enum class Numbers {
  kGaussian,
  kNoSignal,     // queries are 0: all scores are equal
  kZeroValues,   // V is 0: there is no prior
  kHugeLogits,   // logits of thousands: one token takes all
  kLoudToken,    // one value is 1000 times the others
  kFewDistinct,  // components are 0 or 1: ties everywhere
  kHugeValues,  // squared norms near 1e38 (or what f16 carries): sums of them, and products with them, overflow float32
  kTinyMasses,  // the first token takes all: the others' attention lies around 2^-100
};
inline constexpr Numbers kAllNumbers[] = {Numbers::kGaussian,   Numbers::kNoSignal,  Numbers::kZeroValues,
                                          Numbers::kHugeLogits, Numbers::kLoudToken, Numbers::kFewDistinct,
                                          Numbers::kHugeValues, Numbers::kTinyMasses};

// Where the window's rows stand.
enum class Rows {
  kLast,       // the last positions
  kScattered,  // anywhere: late residents are invisible to early rows
  kBlind,      // before the first resident: rows that see nothing
};

struct Shape {
  int32_t layers = 1;
  int32_t kv_heads = 2;
  int32_t group = 2;
  int32_t head_dim = 16;
  int32_t rows = 8;
  std::vector<int32_t> lengths;  // [layers * kv_heads]
  DType dtype = DType::kF32;
  DType query_dtype = DType::kF32;
  bool gaps = false;  // positions have gaps, as after an eviction, and the last tokens were appended since
  Numbers numbers = Numbers::kGaussian;
  Rows window = Rows::kLast;
};

int32_t Between(Random& random, int32_t low, int32_t high);  // both included
PlainSequence MakeSequence(Random& random, const Shape& shape);
// A small shape of any kind; lengths of up to `longest`.
Shape RandomShape(Random& random, int32_t longest);
// A preset, or a random composition of stages.
Policy RandomPolicy(Random& random);

}  // namespace kvsteward::engine
