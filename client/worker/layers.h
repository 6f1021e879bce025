// The float32 layers of a Llama decoder. Plain functions on arrays in C order; every width is a multiple of 16.
// Stateless but for the weights of Linear; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvsteward::worker {

inline constexpr uint32_t kLanes = 16;        // floats that the layers handle at a time
inline constexpr uint32_t kBlockTokens = 16;  // of a block of keys and values

// y = W x without bias.
class Linear {
 public:
  Linear() = default;
  // `weight` is [out, in]. REQUIRES: out a multiple of kLanes, weight.size() == out * in.
  Linear(std::span<const float> weight, uint32_t out, uint32_t in);
  // Puts weights that read the same input behind each other: one product instead of several.
  static Linear Stack(std::span<const std::span<const float>> weights, uint32_t in);

  uint32_t out() const { return out_; }
  // x [rows, in] -> y [rows, out].
  void Apply(const float* x, uint32_t rows, float* y) const;
  // The same, added to y.
  void AddTo(const float* x, uint32_t rows, float* y) const;

 private:
  uint32_t out_ = 0;
  uint32_t in_ = 0;
  std::vector<float> panels_;  // [out / kLanes, in, kLanes]: what one step of the product reads lies together
};

// y = x / sqrt(mean(x^2) + epsilon) * weight, per row of `width`.
void RmsNorm(const float* x, uint32_t rows, uint32_t width, const float* weight, float epsilon, float* y);

// gated [rows, width] = silu(gate) * up, from rows of gate [width] and up [width] side by side.
void SwiGlu(const float* gate_up, uint32_t rows, uint32_t width, float* gated);

// The rotation of every position below `positions`, for heads of one width ("rotate_half": element i turns with i +
// d/2).
class Rope {
 public:
  Rope(uint32_t positions, uint32_t head_dim, float theta);
  // Rotates `heads` neighbouring heads of the token at `position` in place.
  void Rotate(float* heads_of_token, uint32_t heads, uint32_t position) const;

 private:
  uint32_t half_;
  std::vector<float> cosine_;  // [positions, half]
  std::vector<float> sine_;
};

// Attention of neighbouring tokens over one (layer, kv head).
struct Attention {
  // Blocks of keys [16, head_dim] and values [16, head_dim], in order of position. Token t of the queries sees the
  // first `visible + t` residents. Slots that nobody sees are never read: they may hold anything, NaN included.
  std::span<const float* const> blocks;
  uint32_t visible = 0;
  uint32_t tokens = 0;
  uint32_t group = 0;  // query heads that share the kv head, neighbours in `queries`
  uint32_t head_dim = 0;
  const float* queries = nullptr;  // of token t: [group, head_dim] at queries + t * query_stride
  uint32_t query_stride = 0;
  float* out = nullptr;  // likewise
  uint32_t out_stride = 0;
};
// `scratch` is memory that is reused from call to call.
void Attend(const Attention& attention, std::vector<float>& scratch);

}  // namespace kvsteward::worker
