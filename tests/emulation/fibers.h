// Blocks of threads on one CPU thread: every thread of a block is a fiber, which runs until it must wait for others.
// Blocks run in a scrambled order, one after the other, and so do a block's warps whenever there is a choice: the same
// order in every process. What the programming guide forbids or leaves undefined ends the process with a sentence,
// where it can be told: a collective that lanes of its mask never reach, a barrier that live threads never reach,
// another collective at the same time, a shuffle from a lane that takes no part. LaunchGrid is thread-safe: one grid
// runs at a time. All else is called by a kernel's threads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

namespace kvsteward::emulation {

// Runs the grid: calls body(call) as every one of its threads. `kernel` is what cudaFuncSetAttribute was told about.
cudaError_t LaunchGrid(const cudaLaunchConfig_t& config, const void* kernel, void (*body)(const void*),
                       const void* call);

// Waits for all live threads of the block.
void Barrier();

// Of a warp's lanes, by index: what each one gave, for those that are `present`.
using Combine = void (*)(void* const* lanes, uint32_t present);
// Waits for the lanes of `mask` that have not ended, each of which must come with the same mask and Combine. The last
// one calls `combine`, which reads and writes what the lanes gave; then all go on.
void Meet(Combine combine, unsigned mask, void* lane);

int LaneId();

// Of the block, as many bytes as the launch said; filled with kPoison when the block begins.
std::byte* DynamicShared();

// Asynchronous copies of the calling thread, made at once or as late as allowed, whichever chance says. `from` null:
// zeros.
void StartCopy(void* to, const void* from, size_t bytes);
void CommitCopies();
void AwaitCopies(int pending);

// What memory that nobody wrote holds: NaN in every float type.
inline constexpr int kPoison = 0xff;

// Ends the process, after a line that names the thread.
[[noreturn]] void Die(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace kvsteward::emulation
