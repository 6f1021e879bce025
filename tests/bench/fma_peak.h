// The machine's float32 multiply-add rate, to be measured around it. Thread-safe.
#pragma once

namespace kvsteward::bench {

// Keeps `threads` threads busy with multiply-adds on registers, with the widest vectors that the engine uses. Returns
// the floating point operations done, a multiply-add counting two.
double MultiplyAdds(int threads);

}  // namespace kvsteward::bench
