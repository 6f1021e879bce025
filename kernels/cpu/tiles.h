// The inner loops of scoring, compiled for several instruction sets and chosen at run time: logits of query rows
// against tiles of keys, the softmax around them, value norms. Internal to kernels/cpu; stateless, every call writes
// only its arguments.
//
// How one kv head is scored: the G * r query rows that read it are packed once as float32. Keys are cut in chunks (the
// unit of parallel work) and chunks in tiles of kTileKeys keys, transposed to float32 (or, for AMX, left in bf16). Pass
// 1 yields each row's maximum and sum of exponentials per chunk; pass 2 computes the same logits again and folds the
// probabilities by column. Logits of kBlockRows rows live in a buffer of the thread, never those of all rows and keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hwy/aligned_allocator.h"
#include "kernels/plan/protect.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

inline constexpr int32_t kTileKeys = 48;  // whole blocks, and three vectors of 16, 8 or 4 floats go into it
inline constexpr int32_t kPanelRows = 8;
inline constexpr int32_t kBlockRows = 16;
inline constexpr int32_t kMostRowPool = 33;  // so that a tile holds the columns that the next one's pools reach back to
inline constexpr float kLeastScore = 0x1p-100f;  // scores below it become +0
inline constexpr float kWeightUnit =
    0x1p60f;  // pass 2 adds multiples of 1 / kWeightUnit: nothing is subnormal, and slow

// The query rows of one kv head: row h * rows_per_head + i is row i of the head's h-th query head.
struct QueryRows {
  int32_t heads = 0;
  int32_t rows_per_head = 0;
  int32_t dim = 0;
  int32_t min_visible = 0;             // the least of `visible`
  const float* panels = nullptr;       // [ceil(count / 8)][dim][8], rows beyond the last are 0; or else
  const uint16_t* amx = nullptr;       // [count rounded up to 16][dim] in bf16: keys are bf16 as well, AMX is used
  const float* scale = nullptr;        // [count] g log2(e) / sqrt(dim): exp(g l / sqrt(dim)) = 2^(scale l)
  const int32_t* visible = nullptr;    // [count] the row sees the unit's first `visible` residents,
  const CandidateSet* open = nullptr;  // of those only these, if given

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

// Neighbouring rows of one query head that are added up together: the head's rows, or where classes are told apart
// those of one class. They end before `end`.
struct Segment {
  int32_t end = 0;
  uint8_t row_class = 0;
};

// How the probabilities of a column become one score: a row's in units of 1 / kWeightUnit, pooled over its neighbours,
// over the rows of a query head (what is below `least` then becomes 0), over the heads, times `factor`.
struct Fold {
  enum class Rows { kSum, kMax, kMeanVar };
  Rows rows = Rows::kSum;
  int32_t row_pool = 1;               // odd; the pool's sum, `weight` holds the rest
  float gamma = 0;                    // kMeanVar: of the variance, in units of 1 / kWeightUnit squared
  bool max_heads = false;             // else the sum
  std::span<const Segment> segments;  // all rows in order
  float least = 0;
  float factor = 0;
  float attention_factor = 0;     // of the sum over all rows
  const float* scale = nullptr;   // [rows] as QueryRows::scale, times the exponent of a power
  const float* max = nullptr;     // [rows] in the same terms
  const float* weight = nullptr;  // [rows] kWeightUnit / sum, and what else a row's probabilities are multiplied by
  const float* share = nullptr;   // [rows] kWeightUnit / sum
};

// Where the columns go: arrays over the unit's residents. Each is null if it is not asked for.
struct Columns {
  float* scores = nullptr;           // or else
  float* by_head = nullptr;          // [heads][length] before the heads are folded
  float* attention = nullptr;        // the sum of all rows' probabilities, neither pooled nor in classes
  float* cross = nullptr;            // the part of the score from segments of another class than the resident's,
  float* self = nullptr;             // and from those of its own
  const uint8_t* classes = nullptr;  // [length] the residents', with `cross` and `self`
};

// One thread's buffers for rows of `dim` elements of at most 4 bytes and `rows` query rows.
class Scratch {
 public:
  static constexpr size_t kHistory = kMostRowPool - 1;  // columns before a tile that a pool may reach
  static constexpr size_t kLine = kHistory + kTileKeys;

  Scratch(int32_t dim, int32_t rows, bool pools);

  uint32_t* stage() { return stage_.get(); }  // [pieces of 16 bytes][kTileKeys][4]
  float* tile() { return tile_.get(); }       // [dim rounded up][kTileKeys]; for AMX words [dim / 2][kTileKeys]
  uint32_t* pairs() { return reinterpret_cast<uint32_t*>(tile_.get()); }
  float* logits(size_t which) {
    return logits_.get() + which * kBlockRows * kTileKeys;
  }                                        // 2 of [kBlockRows][kTileKeys]
  float* sums() { return sums_.get(); }    // [rows][lanes]
  float* lines() { return lines_.get(); }  // [kBlockRows][kLine]: rows' probabilities behind those of the tile before
  float* history(size_t line) { return history_.get() + line * kHistory; }  // if `pools`: [rows][kHistory]
  static size_t Pieces(size_t token_bytes) { return (token_bytes + 15) / 16; }

 private:
  hwy::AlignedFreeUniquePtr<uint32_t[]> stage_;
  hwy::AlignedFreeUniquePtr<float[]> tile_;
  hwy::AlignedFreeUniquePtr<float[]> logits_;
  hwy::AlignedFreeUniquePtr<float[]> sums_;
  hwy::AlignedFreeUniquePtr<float[]> lines_;
  hwy::AlignedFreeUniquePtr<float[]> history_;
};

// Pass 1 over one chunk: max[i] is near the largest of row i's scaled logits that it sees, lowest float if it sees
// none, and sum[i] = sum of 2^(scaled logit - max[i]). False if some logit, seen or not, or some maximum is not finite.
bool ReduceChunk(const QueryRows& rows, const Chunk& chunk, Scratch& scratch, float* max, double* sum);

// Pass 2: folds the chunk's residents; with a pool, the scores are those of residents row_pool / 2 earlier, and of all
// that are left if the chunk is the unit's last.
void FoldChunk(const QueryRows& rows, const Chunk& chunk, const Fold& fold, Scratch& scratch, const Columns& columns);

}  // namespace kvsteward::engine::cpu
