#include "client/worker/layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// One body, compiled for several instruction sets; the best one is chosen when the program starts.
#define KVS_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// What the clones call must be part of them.
#define KVS_INLINE __attribute__((always_inline)) inline

namespace kvsteward::worker {
namespace {

// 16 floats, of which the compiler makes one, two or four registers. Never passed by value: that would depend on the
// instruction set.
using Vec = float __attribute__((vector_size(sizeof(float) * kLanes)));
using IntVec = int32_t __attribute__((vector_size(sizeof(int32_t) * kLanes)));

constexpr uint32_t kRows = 4;  // rows that one step of a product handles: what it loads is used that often

KVS_INLINE void Load(const float* from, Vec& to) { std::memcpy(&to, from, sizeof(Vec)); }
KVS_INLINE void Store(const Vec& from, float* to) { std::memcpy(to, &from, sizeof(Vec)); }

KVS_INLINE float Sum(const Vec& v) {
  float sum = 0;
  for (uint32_t i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// x = e^x for x <= 88, to 2e-7 of the result; 0 below -87. (Cephes' expf: a power of two times a polynomial.)
KVS_INLINE void Exp(Vec& x) {
  constexpr float kLowest = -87.0F;
  const IntVec underflow = x < kLowest;
  x = underflow ? Vec{} + kLowest : x;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  Vec n = x * 1.44269504F + kRound;
  n -= kRound;
  x -= n * 0.693359375F;
  x -= n * -2.12194440e-4F;
  Vec y = x * 1.9875691500e-4F + 1.3981999507e-3F;
  y = y * x + 8.3334519073e-3F;
  y = y * x + 4.1665795894e-2F;
  y = y * x + 1.6666665459e-1F;
  y = y * x + 5.0000001201e-1F;
  y = y * x * x + x + 1.0F;
  const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  Vec power;
  std::memcpy(&power, &exponent, sizeof(power));
  x = underflow ? Vec{} : y * power;
}

// y [rows, out] = or += x [rows, in] * panels.
template <bool kAdd>
KVS_INLINE void Multiply(const float* panels, uint32_t in, uint32_t out, const float* x, uint32_t rows, float* y) {
  for (uint32_t row = 0; row < rows; row += kRows) {
    const float* source[kRows];
    float* target[kRows];
    for (uint32_t r = 0; r < kRows; ++r) {
      const size_t at = std::min(row + r, rows - 1);  // a short last step repeats its last row
      source[r] = x + at * in;
      target[r] = y + at * out;
    }
    const uint32_t distinct = std::min(kRows, rows - row);
    for (uint32_t column = 0; column < out; column += kLanes) {
      const float* panel = panels + static_cast<size_t>(column) * in;
      Vec sum[kRows] = {};
      for (uint32_t i = 0; i < in; ++i) {
        Vec w;
        Load(panel + static_cast<size_t>(i) * kLanes, w);
        for (uint32_t r = 0; r < kRows; ++r) sum[r] += source[r][i] * w;
      }
      for (uint32_t r = 0; r < distinct; ++r) {
        if (kAdd) {
          Vec old;
          Load(target[r] + column, old);
          sum[r] += old;
        }
        Store(sum[r], target[r] + column);
      }
    }
  }
}

KVS_CLONES void MultiplyInto(const float* panels, uint32_t in, uint32_t out, const float* x, uint32_t rows, float* y) {
  Multiply<false>(panels, in, out, x, rows, y);
}
KVS_CLONES void MultiplyOnto(const float* panels, uint32_t in, uint32_t out, const float* x, uint32_t rows, float* y) {
  Multiply<true>(panels, in, out, x, rows, y);
}

}  // namespace

Linear::Linear(std::span<const float> weight, uint32_t out, uint32_t in) : out_(out), in_(in) {
  panels_.resize(weight.size());
  for (size_t o = 0; o < out; ++o) {
    for (size_t i = 0; i < in; ++i) {
      panels_[(o / kLanes * in + i) * kLanes + o % kLanes] = weight[o * in + i];
    }
  }
}

Linear Linear::Stack(std::span<const std::span<const float>> weights, uint32_t in) {
  std::vector<float> all;
  for (const auto& weight : weights) all.insert(all.end(), weight.begin(), weight.end());
  return Linear(all, static_cast<uint32_t>(all.size() / in), in);
}

void Linear::Apply(const float* x, uint32_t rows, float* y) const {
  MultiplyInto(panels_.data(), in_, out_, x, rows, y);
}

void Linear::AddTo(const float* x, uint32_t rows, float* y) const {
  MultiplyOnto(panels_.data(), in_, out_, x, rows, y);
}

KVS_CLONES void RmsNorm(const float* x, uint32_t rows, uint32_t width, const float* weight, float epsilon, float* y) {
  for (uint32_t row = 0; row < rows; ++row, x += width, y += width) {
    Vec squares = {};
    Vec v;
    for (uint32_t i = 0; i < width; i += kLanes) {
      Load(x + i, v);
      squares += v * v;
    }
    const float scale = 1.0F / std::sqrt(Sum(squares) / static_cast<float>(width) + epsilon);
    for (uint32_t i = 0; i < width; ++i) y[i] = x[i] * scale * weight[i];
  }
}

KVS_CLONES void SwiGlu(const float* gate_up, uint32_t rows, uint32_t width, float* gated) {
  for (uint32_t row = 0; row < rows; ++row, gate_up += 2 * static_cast<size_t>(width), gated += width) {
    for (uint32_t i = 0; i < width; i += kLanes) {
      Vec gate;
      Vec up;
      Load(gate_up + i, gate);
      Load(gate_up + width + i, up);
      Vec decay = -gate;
      decay = decay > 80.0F ? Vec{} + 80.0F : decay;  // e^80 is finite, and silu is 0 there
      Exp(decay);
      up *= gate / (decay + 1.0F);
      Store(up, gated + i);
    }
  }
}

Rope::Rope(uint32_t positions, uint32_t head_dim, float theta) : half_(head_dim / 2) {
  cosine_.resize(static_cast<size_t>(positions) * half_);
  sine_.resize(cosine_.size());
  for (uint32_t i = 0; i < half_; ++i) {
    const float frequency = 1.0F / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(head_dim));
    for (uint32_t position = 0; position < positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      cosine_[static_cast<size_t>(position) * half_ + i] = std::cos(angle);
      sine_[static_cast<size_t>(position) * half_ + i] = std::sin(angle);
    }
  }
}

void Rope::Rotate(float* heads_of_token, uint32_t heads, uint32_t position) const {
  const float* cosine = &cosine_[static_cast<size_t>(position) * half_];
  const float* sine = &sine_[static_cast<size_t>(position) * half_];
  for (float* head = heads_of_token; heads > 0; --heads, head += 2 * static_cast<size_t>(half_)) {
    for (uint32_t i = 0; i < half_; ++i) {
      const float low = head[i];
      const float high = head[i + half_];
      head[i] = low * cosine[i] - high * sine[i];
      head[i + half_] = high * cosine[i] + low * sine[i];
    }
  }
}

namespace {

// Rows of queries that attend together: some tokens' query heads. Row r is head r % group of token r / group.
struct Tile {
  uint32_t first_token = 0;
  uint32_t rows = 0;
  size_t padded = 0;        // floats from one row of scores to the next
  float* scores = nullptr;  // [rows, padded]
  float* turned = nullptr;  // [head_dim, 16]: a block's keys, transposed
};

KVS_INLINE uint32_t Visible(const Attention& a, const Tile& tile, uint32_t row) {
  return a.visible + tile.first_token + row / a.group;
}
// Where a row's head begins among tokens that lie `stride` floats apart.
KVS_INLINE size_t Offset(const Attention& a, const Tile& tile, uint32_t row, uint32_t stride) {
  return static_cast<size_t>(tile.first_token + row / a.group) * stride +
         static_cast<size_t>(row % a.group) * a.head_dim;
}

// scores[r][j] = query r . key j. What lies behind the last resident that anyone sees becomes any number.
KVS_INLINE void Score(const Attention& a, const Tile& tile, uint32_t most_visible) {
  for (uint32_t first = 0; first < most_visible; first += kBlockTokens) {
    const float* keys = a.blocks[first / kBlockTokens];
    for (uint32_t j = 0; j < kBlockTokens; ++j) {
      for (uint32_t i = 0; i < a.head_dim; ++i) tile.turned[i * kLanes + j] = keys[j * a.head_dim + i];
    }
    for (uint32_t row = 0; row < tile.rows; row += kRows) {
      const float* query[kRows];
      Vec sum[kRows] = {};
      for (uint32_t r = 0; r < kRows; ++r) {
        query[r] = a.queries + Offset(a, tile, std::min(row + r, tile.rows - 1), a.query_stride);
      }
      for (uint32_t i = 0; i < a.head_dim; ++i) {
        Vec key;
        Load(tile.turned + static_cast<size_t>(i) * kLanes, key);
        for (uint32_t r = 0; r < kRows; ++r) sum[r] += query[r][i] * key;
      }
      for (uint32_t r = 0; r < kRows && row + r < tile.rows; ++r) {
        Store(sum[r], tile.scores + (row + r) * tile.padded + first);
      }
    }
  }
}

// Makes weights of one row of scores, not yet divided by their sum, which it returns. Residents that the row does not
// see weigh 0.
KVS_INLINE float Weigh(float* scores, uint32_t visible, size_t padded, float scale) {
  float highest = scores[0];
  for (uint32_t j = 1; j < visible; ++j) highest = scores[j] > highest ? scores[j] : highest;
  std::fill(scores + visible, scores + padded, -INFINITY);
  Vec sum = {};
  for (size_t j = 0; j < padded; j += kLanes) {
    Vec x;
    Load(scores + j, x);
    x = (x - highest) * scale;
    Exp(x);
    sum += x;
    Store(x, scores + j);
  }
  return Sum(sum);
}

// out[r] = the values that the row sees, weighed and divided by the row's sum of weights.
KVS_INLINE void Mix(const Attention& a, const Tile& tile, uint32_t most_visible, const float* sums) {
  for (uint32_t row = 0; row < tile.rows; row += kRows) {
    const float* weights[kRows];
    for (uint32_t r = 0; r < kRows; ++r) weights[r] = tile.scores + std::min(row + r, tile.rows - 1) * tile.padded;
    for (uint32_t column = 0; column < a.head_dim; column += kLanes) {
      Vec sum[kRows] = {};
      for (uint32_t first = 0; first < most_visible; first += kBlockTokens) {
        const float* values = a.blocks[first / kBlockTokens] + static_cast<size_t>(kBlockTokens) * a.head_dim + column;
        const uint32_t end = std::min(kBlockTokens, most_visible - first);
        for (uint32_t j = 0; j < end; ++j) {
          Vec value;
          Load(values + static_cast<size_t>(j) * a.head_dim, value);
          for (uint32_t r = 0; r < kRows; ++r) sum[r] += weights[r][first + j] * value;
        }
      }
      for (uint32_t r = 0; r < kRows && row + r < tile.rows; ++r) {
        sum[r] /= sums[row + r];
        Store(sum[r], a.out + Offset(a, tile, row + r, a.out_stride) + column);
      }
    }
  }
}

KVS_CLONES void AttendTile(const Attention& a, const Tile& tile, float* sums) {
  const uint32_t most_visible = Visible(a, tile, tile.rows - 1);
  const float scale = 1.0F / std::sqrt(static_cast<float>(a.head_dim));
  Score(a, tile, most_visible);
  for (uint32_t row = 0; row < tile.rows; ++row) {
    sums[row] = Weigh(tile.scores + row * tile.padded, Visible(a, tile, row), tile.padded, scale);
  }
  Mix(a, tile, most_visible, sums);
}

}  // namespace

void Attend(const Attention& attention, std::vector<float>& scratch) {
  constexpr uint32_t kTileTokens = 16;
  const uint32_t most_rows = std::min(kTileTokens, attention.tokens) * attention.group;
  const size_t padded = attention.blocks.size() * kBlockTokens;
  scratch.resize(std::max(scratch.size(), most_rows * (padded + 1) + static_cast<size_t>(attention.head_dim) * kLanes));
  float* turned = scratch.data() + most_rows * padded;
  float* sums = turned + static_cast<size_t>(attention.head_dim) * kLanes;
  for (uint32_t first = 0; first < attention.tokens; first += kTileTokens) {
    const uint32_t rows = std::min(kTileTokens, attention.tokens - first) * attention.group;
    // Only as much of a row as the tile's last token sees.
    const size_t seen = (attention.visible + first + rows / attention.group - 1 + kBlockTokens - 1) / kBlockTokens;
    AttendTile(attention, {first, rows, seen * kBlockTokens, scratch.data(), turned}, sums);
  }
}

}  // namespace kvsteward::worker
