#include "kernels/cpu/amx.h"

#include <algorithm>

#include "kernels/cpu/tiles.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define KVS_AMX __attribute__((target("amx-tile,amx-bf16")))
#endif

namespace kvsteward::engine::cpu {

bool AmxExact(std::span<const uint16_t> query) {
  return std::all_of(query.begin(), query.end(), [](uint16_t bits) {
    const int exponent = (bits >> 7) & 0xff;
    return (exponent != 0 && exponent < 127 + 60) || (bits & 0x7fff) == 0;
  });
}

#if defined(__x86_64__)

static_assert(kTileKeys == 3 * 16, "AmxLogits keeps three tile registers of keys");

bool AmxAvailable() {
  static const bool available = [] {
    constexpr unsigned kAmxBf16 = 1u << 22;
    constexpr unsigned kAmxTile = 1u << 24;
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return available;
}

namespace {

// The operand of LDTILECFG: eight registers of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// In memory, not on the stack: GCC 12 drops stores that only LDTILECFG reads.
const TileConfig kConfig;

KVS_AMX void Configure() { _tile_loadconfig(&kConfig); }
KVS_AMX void Release() { _tile_release(); }

}  // namespace

AmxScope::AmxScope() { Configure(); }
AmxScope::~AmxScope() { Release(); }

KVS_AMX void AmxLogits(const uint16_t* rows, int32_t row_tiles, const uint32_t* tile, int32_t dim, float* out) {
  const long row_stride = 2L * dim;
  constexpr long kTileStride = 4L * kTileKeys;
  constexpr size_t kOutStep = size_t{kAmxRows} * kTileKeys;
  for (int32_t row_tile = 0; row_tile < row_tiles; ++row_tile) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (int32_t pair = 0; pair < dim / 2; pair += kAmxPairs) {
      const uint32_t* keys = tile + static_cast<size_t>(pair) * kTileKeys;
      _tile_loadd(3, rows + size_t{2} * pair, row_stride);
      _tile_loadd(4, keys, kTileStride);
      _tile_dpbf16ps(0, 3, 4);
      _tile_loadd(5, keys + 16, kTileStride);
      _tile_dpbf16ps(1, 3, 5);
      _tile_loadd(6, keys + 32, kTileStride);
      _tile_dpbf16ps(2, 3, 6);
    }
    _tile_stored(0, out, kTileStride);
    _tile_stored(1, out + 16, kTileStride);
    _tile_stored(2, out + 32, kTileStride);
    rows += static_cast<size_t>(kAmxRows) * static_cast<size_t>(dim);
    out += kOutStep;
  }
}

KVS_AMX void AmxSplitLogits(const uint16_t* parts, const uint32_t* tile, int32_t dims, float* out) {
  constexpr long kRowStride = 4L * kAmxPairs;
  constexpr long kTileStride = 4L * kTileKeys;
  constexpr size_t kPart = size_t{2} * kAmxRows * kAmxPairs;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  for (int32_t pair = 0; pair < dims / 2; pair += kAmxPairs, parts += kAmxParts * kPart) {
    const uint32_t* keys = tile + static_cast<size_t>(pair) * kTileKeys;
    _tile_loadd(4, keys, kTileStride);
    _tile_loadd(5, keys + 16, kTileStride);
    _tile_loadd(6, keys + 32, kTileStride);
    _tile_loadd(3, parts, kRowStride);
    _tile_dpbf16ps(0, 3, 4);
    _tile_dpbf16ps(1, 3, 5);
    _tile_dpbf16ps(2, 3, 6);
    _tile_loadd(7, parts + kPart, kRowStride);
    _tile_dpbf16ps(0, 7, 4);
    _tile_dpbf16ps(1, 7, 5);
    _tile_dpbf16ps(2, 7, 6);
    _tile_loadd(3, parts + 2 * kPart, kRowStride);
    _tile_dpbf16ps(0, 3, 4);
    _tile_dpbf16ps(1, 3, 5);
    _tile_dpbf16ps(2, 3, 6);
  }
  _tile_stored(0, out, kTileStride);
  _tile_stored(1, out + 16, kTileStride);
  _tile_stored(2, out + 32, kTileStride);
}

#else

bool AmxAvailable() { return false; }
AmxScope::AmxScope() = default;
AmxScope::~AmxScope() = default;
void AmxLogits(const uint16_t*, int32_t, const uint32_t*, int32_t, float*) {}
void AmxSplitLogits(const uint16_t*, const uint32_t*, int32_t, float*) {}

#endif

}  // namespace kvsteward::engine::cpu
