// Element types and the shape of one model's KV cache. Plain values, no ownership, thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvsteward::engine {

// Tokens per block, for one layer and one kv head. Tables, plans and the `block` selection count in it.
inline constexpr int32_t kBlockTokens = 16;

enum class DType : uint8_t { kF32 = 1, kF16 = 2, kBF16 = 3 };

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

struct Geometry {
  int32_t layers = 0;
  int32_t query_heads = 0;  // per layer; a multiple of kv_heads, head h reads kv head h / group()
  int32_t kv_heads = 0;     // per layer
  int32_t head_dim = 0;
  DType dtype = DType::kBF16;

  int32_t units() const { return layers * kv_heads; }
  int32_t group() const { return query_heads / kv_heads; }
  size_t token_bytes() const { return static_cast<size_t>(head_dim) * SizeOf(dtype); }
  // K of 16 tokens, then V of 16 tokens.
  size_t block_bytes() const { return 2 * static_cast<size_t>(kBlockTokens) * token_bytes(); }

  bool operator==(const Geometry&) const = default;
};

}  // namespace kvsteward::engine
