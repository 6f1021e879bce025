// Random and adversarial sequences, requests and policies for tests of an engine. Pure functions of their seed.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kvsteward/engine/policy.h"
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
  kDenormals,   // half of the components are denormal numbers
  kSpread,      // tokens differ by eight orders of magnitude
};
inline constexpr Numbers kAllNumbers[] = {
    Numbers::kGaussian,    Numbers::kNoSignal,   Numbers::kZeroValues, Numbers::kHugeLogits, Numbers::kLoudToken,
    Numbers::kFewDistinct, Numbers::kHugeValues, Numbers::kTinyMasses, Numbers::kDenormals,  Numbers::kSpread};

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
  bool gaps = false;   // positions have gaps, as after an eviction, and the last tokens were appended since
  bool equal = false;  // all kv heads of a layer hold the same positions: as many as its first one's length
  Numbers numbers = Numbers::kGaussian;
  Rows window = Rows::kLast;
  bool moments = false;  // requests bring the moments of queries to come, which are large
};

int32_t Between(Random& random, int32_t low, int32_t high);  // both included
template <class T, size_t n>
T OneOf(Random& random, const T (&values)[n]) {
  return values[random() % n];
}

// With a request that brings rows and all inputs.
PlainSequence MakeSequence(Random& random, const Shape& shape);
// K and V of `count` more tokens per unit.
std::vector<reference::Unit> MakeTokens(Random& random, const Shape& shape, int32_t count);
// Rows at the given positions, or where the shape says, and all inputs.
Request MakeRequest(Random& random, const Shape& shape, const PlainSequence& plain, std::vector<int64_t> rows);
Request MakeRequest(Random& random, const Shape& shape, const PlainSequence& plain);
// Gives the first tokens running scores, as if rows up to some position had been observed.
void MakeRunning(Random& random, const Shape& shape, PlainSequence* plain);

// A small shape of any kind; lengths of up to `longest`.
Shape RandomShape(Random& random, int32_t longest);
// Any composition of stages that Validate accepts, with tables of this shape.
Policy RandomPolicy(Random& random, int32_t layers, int32_t kv_heads);

}  // namespace kvsteward::engine
