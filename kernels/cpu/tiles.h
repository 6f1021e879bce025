// The inner loops of scoring, compiled for several instruction sets and chosen at run time: logits of query rows
// against tiles of keys, the softmax around them, value norms. Internal to kernels/cpu; stateless, every call writes
// only its arguments.
//
// How one kv head is scored: the G * r query rows that read it are packed once as float32. Keys are cut in chunks (the
// unit of parallel work) and chunks in tiles of kTileKeys keys, transposed to float32 (or, for AMX, left in bf16). Pass
// 1 yields each row's maximum and sum of exponentials per chunk; pass 2 computes the same logits again and adds up the
// probabilities by column. Logits of kBlockRows rows live in a buffer of the thread, never those of all rows and keys.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hwy/aligned_allocator.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

inline constexpr int32_t kTileKeys = 48;  // whole blocks, and three vectors of 16, 8 or 4 floats go into it
inline constexpr int32_t kPanelRows = 8;
inline constexpr int32_t kBlockRows = 16;
inline constexpr float kLeastScore = 0x1p-100f;  // scores below it become +0
inline constexpr float kWeightUnit =
    0x1p60f;  // pass 2 adds multiples of 1 / kWeightUnit: nothing is subnormal, and slow

// The query rows of one kv head: row h * rows_per_head + i is row i of the head's h-th query head.
struct QueryRows {
  int32_t heads = 0;
  int32_t rows_per_head = 0;
  int32_t dim = 0;
  int32_t min_visible = 0;           // the least of `visible`
  const float* panels = nullptr;     // [ceil(count / 8)][dim][8], rows beyond the last are 0; or else
  const uint16_t* amx = nullptr;     // [count rounded up to 16][dim] in bf16: keys are bf16 as well, AMX is used
  const float* scale = nullptr;      // [count] g log2(e) / sqrt(dim): exp(g l / sqrt(dim)) = 2^(scale l)
  const int32_t* visible = nullptr;  // [count] the row sees the unit's first `visible` residents

  int32_t count() const { return heads * rows_per_head; }
};

// Residents [begin, end) of a unit; begin is a multiple of kTileKeys where keys are read.
struct Chunk {
  const Geometry* geometry = nullptr;
  const PoolView* pool = nullptr;
  const UnitView* unit = nullptr;
  int32_t begin = 0;
  int32_t end = 0;
};

// How the probabilities of a column, in units of 1 / kWeightUnit, become one score: over the rows of a query head (what
// is below `least` then becomes 0), over the heads, times `factor`.
struct Fold {
  bool max_rows = false;   // else the sum
  bool max_heads = false;  // else the sum
  float least = kLeastScore * kWeightUnit;
  float factor = 1 / kWeightUnit;
};

// One thread's buffers for rows of `dim` elements of at most 4 bytes and `rows` query rows.
class Scratch {
 public:
  Scratch(int32_t dim, int32_t rows);

  uint32_t* stage() { return stage_.get(); }  // [pieces of 16 bytes][kTileKeys][4]
  float* tile() { return tile_.get(); }       // [dim rounded up][kTileKeys]; for AMX words [dim / 2][kTileKeys]
  uint32_t* pairs() { return reinterpret_cast<uint32_t*>(tile_.get()); }
  float* logits(size_t which) {
    return logits_.get() + which * kBlockRows * kTileKeys;
  }                                      // 2 of [kBlockRows][kTileKeys]
  float* sums() { return sums_.get(); }  // [rows][lanes]
  static size_t Pieces(size_t token_bytes) { return (token_bytes + 15) / 16; }

 private:
  hwy::AlignedFreeUniquePtr<uint32_t[]> stage_;
  hwy::AlignedFreeUniquePtr<float[]> tile_;
  hwy::AlignedFreeUniquePtr<float[]> logits_;
  hwy::AlignedFreeUniquePtr<float[]> sums_;
};

// Pass 1 over one chunk: max[i] is near the largest of row i's scaled logits that it sees, lowest float if it sees
// none, and sum[i] = sum of 2^(scaled logit - max[i]). False if some logit, seen or not, or some maximum is not finite.
bool ReduceChunk(const QueryRows& rows, const Chunk& chunk, Scratch& scratch, float* max, double* sum);

// Pass 2: scores[j - begin] for the chunk's residents j, from each row's maximum and weight, kWeightUnit / sum (0: the
// row sees nothing).
void ScoreChunk(const QueryRows& rows, const Chunk& chunk, const Fold& fold, const float* max, const float* weight,
                Scratch& scratch, float* scores);

// Writes ||V||_2^2 of the chunk's residents into the pool's norms. The first resident whose norm is not finite, or -1.
int32_t NormChunk(const Chunk& chunk);

}  // namespace kvsteward::engine::cpu
