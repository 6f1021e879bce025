// Logits of bf16 rows against bf16 keys by AMX, where the CPU has it. A product of two bf16 numbers is exact in float32
// and AMX adds in float32, so this is float32 arithmetic at many times the vector rate. AMX takes subnormal inputs for
// 0: AmxExact() says when that is without effect. Stateless but for each thread's tile registers.
#pragma once

#include <cstdint>
#include <span>

namespace kvsteward::engine::cpu {

inline constexpr int32_t kAmxRows = 16;   // query rows of a tile register
inline constexpr int32_t kAmxPairs = 16;  // pairs of dimensions of a tile register
inline constexpr int32_t kAmxMostDim = 512;

// True if CPU and kernel let this process use AMX with bf16. Asks once.
bool AmxAvailable();

// Dot products that AMX can do: whole tile registers, short enough to add up in one go.
constexpr bool AmxTakes(int32_t dim) { return dim % (2 * kAmxPairs) == 0 && dim <= kAmxMostDim; }

// True if no bf16 key, subnormal or not, makes AMX's logit of this query differ from float32's by more than 2^-50: its
// numbers are 0 or normal, and at most 2^60.
bool AmxExact(std::span<const uint16_t> query);

// The calling thread's tile registers are configured while one of these lives. REQUIRES: AmxAvailable().
class AmxScope {
 public:
  AmxScope();
  ~AmxScope();
  AmxScope(const AmxScope&) = delete;
  AmxScope& operator=(const AmxScope&) = delete;
};

// out[row][key] for `row_tiles` * 16 query rows [row][dim] in bf16 and the kTileKeys keys of `tile` [dim / 2][key],
// each word two neighbouring dimensions of a key. REQUIRES: an AmxScope lives on this thread; AmxTakes(dim).
void AmxLogits(const uint16_t* rows, int32_t row_tiles, const uint32_t* tile, int32_t dim, float* out);

// The same for kAmxRows rows of float32 numbers, each of which is the sum of three in bf16: `parts`
// [dims / (2 * kAmxPairs)][kAmxParts][row][2 * kAmxPairs], a tile register at a time. `tile` begins at their first
// dimension.
inline constexpr int32_t kAmxParts = 3;
void AmxSplitLogits(const uint16_t* parts, const uint32_t* tile, int32_t dims, float* out);

}  // namespace kvsteward::engine::cpu
