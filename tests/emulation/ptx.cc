#include "tests/emulation/ptx.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

namespace kvsteward::emulation {
namespace {

constexpr uint32_t kWholeWarp = 0xffffffffu;

void CheckWhole(uint32_t present, const char* what) {
  if (present != kWholeWarp) Die("%s by lanes %#x: it takes a whole warp", what, present);
}

struct MatrixLane {
  const std::byte* row;
  uint32_t* to;
};

void CombineMatrices(void* const* lanes, uint32_t present) {
  CheckWhole(present, "ldmatrix");
  // Register i of lane l: of matrix i, row l / 4, numbers 2 (l % 4) and the next.
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      const std::byte* row = static_cast<MatrixLane*>(lanes[8 * matrix + lane / 4])->row;
      std::memcpy(&static_cast<MatrixLane*>(lanes[lane])->to[matrix], row + lane % 4 * 4, 4);
    }
  }
}

struct MultiplyLane {
  const uint32_t* a;
  const uint32_t* b;
  float* c;
};

template <bool kBf16>
float Number(uint32_t word, int half) {
  const auto bits = static_cast<uint16_t>(word >> (16 * half));
  return kBf16 ? __bfloat162float({bits}) : __half2float({bits});
}

// The ISA's tables, with group = lane / 4 and in_group = lane % 4:
//   a_i (i = 0..7)  row group (i in 0, 1, 4, 5) or group + 8; column 2 in_group + i % 2, and + 8 from i = 4 on
//   b_i (i = 0..3)  row 2 in_group + i % 2, and + 8 from i = 2 on; column group
//   c_i (i = 0..3)  row group, and + 8 from i = 2 on; column 2 in_group + i % 2
template <bool kBf16>
void CombineMultiply(void* const* lanes, uint32_t present) {
  CheckWhole(present, "mma");
  float a[16][16];
  float b[16][8];
  float c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MultiplyLane& of = *static_cast<MultiplyLane*>(lanes[lane]);
    const int group = lane / 4;
    const int in_group = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[row][column] = Number<kBf16>(of.a[i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) {
      b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = Number<kBf16>(of.b[i / 2], i % 2);
      c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = of.c[i];
    }
  }
  // Products are exact in float32.
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      static_cast<MultiplyLane*>(lanes[lane])->c[i] = c[i < 2 ? lane / 4 : lane / 4 + 8][lane % 4 * 2 + (i & 1)];
    }
  }
}

}  // namespace

void LoadMatrices(const std::byte* row, uint32_t (&to)[4]) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    Die("ldmatrix of a row at %p, which is not aligned to 16", static_cast<const void*>(row));
  MatrixLane lane{row, to};
  Meet(CombineMatrices, kWholeWarp, &lane);
}

void Multiply(bool bf16, const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]) {
  MultiplyLane lane{a, b, c};
  Meet(bf16 ? CombineMultiply<true> : CombineMultiply<false>, kWholeWarp, &lane);
}

}  // namespace kvsteward::emulation
