// The machine's float32 multiply-add rate, measured. Thread-safe.
#pragma once

namespace kvsteward::bench {

// Floating point operations a second of `threads` threads, a multiply-add counting two, with the widest vectors that
// the engine uses, from registers.
double FmaPeak(int threads);

}  // namespace kvsteward::bench
