#include "tests/emulation/fibers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/mutex.h"
#include "tests/emulation/functions.h"
#include "tests/emulation/switch.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace kvsteward::emulation {
namespace {

constexpr int kLanes = 32;
constexpr int kMostThreads = 1024;
constexpr int kMostWarps = kMostThreads / kLanes;
constexpr uint32_t kMostGridX = 0x7fffffff;
constexpr uint32_t kMostGridYZ = 0xffff;
constexpr uint32_t kMostBlockZ = 64;

struct Copy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;
  int group;
};

struct Thread {
  Fiber* fiber = nullptr;  // null: not begun
  uint3 index{};
  // While it waits for lanes of its warp:
  Combine combine = nullptr;
  uint32_t mask = 0;
  void* lane = nullptr;
  // Copies that are under way, and how many groups are closed.
  std::vector<Copy> copies;
  int groups = 0;
};

// Which lanes of a warp are what. Those that do not exist have ended.
struct Warp {
  uint32_t ended = 0;
  uint32_t ready = 0;  // to begin or to go on
  uint32_t at_barrier = 0;
  uint32_t meeting = 0;
};

// The block that runs. Guarded by `grids`: the thread that launched is the only one here.
Mutex grids;
std::array<Thread, kMostThreads> threads;
std::array<Warp, kMostWarps> warps;
uint32_t ready_warps;  // those that have a ready lane
int current;           // index of the thread that runs
int live;
int at_barrier;
int lane_turn;  // lanes of a warp begin at this one
void (*thread_body)(const void*);
const void* thread_call;
std::vector<std::byte> dynamic_shared;

Fiber host;                                            // whoever launched
std::vector<Fiber*>& idle = *new std::vector<Fiber*>;  // fibers that run no thread; outlives every caller
uint64_t random_state = 0x9e3779b97f4a7c15u;

uint64_t Random() {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

Warp& WarpOf(int thread) { return warps[static_cast<size_t>(thread / kLanes)]; }
uint32_t BitOf(int thread) { return 1u << thread % kLanes; }

void MakeReady(int warp, uint32_t lanes) {
  warps[static_cast<size_t>(warp)].ready |= lanes;
  if (lanes != 0) ready_warps |= 1u << warp;
}

// The lowest set bit, counted from `turn` on.
int PickBit(uint32_t bits, int turn) { return (std::countr_zero(std::rotr(bits, turn)) + turn) % 32; }

// A ready thread, of the same warp as the last one if it has any; it is then not ready any more. -1: there is none.
int TakeReady() {
  if (ready_warps == 0) return -1;
  int warp = current / kLanes;
  if (WarpOf(current).ready == 0) warp = PickBit(ready_warps, static_cast<int>(Random() % 32));
  Warp& of = warps[static_cast<size_t>(warp)];
  const int lane = PickBit(of.ready, lane_turn);
  of.ready &= ~(1u << lane);
  if (of.ready == 0) ready_warps &= ~(1u << warp);
  return warp * kLanes + lane;
}

void Become(int thread) {
  current = thread;
  threadIdx = threads[static_cast<size_t>(thread)].index;
}

// Nobody can go on.
[[noreturn]] void DieStuck() {
  for (int thread = 0; thread < kMostThreads; ++thread) {
    if ((WarpOf(thread).meeting & BitOf(thread)) == 0) continue;
    Become(thread);
    const uint32_t wanted = threads[static_cast<size_t>(thread)].mask & ~WarpOf(thread).ended;
    Die("divergent collective: it waits for lanes %#x of its warp, of which %#x never come (%d of %d live threads are "
        "at a barrier)",
        wanted, wanted & ~WarpOf(thread).meeting, at_barrier, live);
  }
  Die("nobody can go on: %d of %d live threads are at a barrier", at_barrier, live);
}

void ReleaseBarrier() {
  at_barrier = 0;
  for (int warp = 0; warp < kMostWarps; ++warp) {
    Warp& of = warps[static_cast<size_t>(warp)];
    MakeReady(warp, of.at_barrier);
    of.at_barrier = 0;
  }
}

// Lets the lanes of `mask` go on if all of them that have not ended have come.
bool Complete(int warp, uint32_t mask) {
  Warp& of = warps[static_cast<size_t>(warp)];
  const uint32_t present = mask & ~of.ended;
  if ((of.meeting & present) != present) return false;
  std::array<void*, kLanes> lanes{};
  const Thread& first = threads[static_cast<size_t>(warp * kLanes + std::countr_zero(present))];
  for (uint32_t left = present; left != 0; left &= left - 1) {
    const auto lane = static_cast<size_t>(std::countr_zero(left));
    const Thread& thread = threads[static_cast<size_t>(warp) * kLanes + lane];
    if (thread.mask != mask || thread.combine != first.combine) {
      Die("divergent collective: lane %zu meets the others with mask %#x, not %#x, or in another operation", lane,
          thread.mask, mask);
    }
    lanes[lane] = thread.lane;
  }
  first.combine(lanes.data(), present);
  of.meeting &= ~present;
  MakeReady(warp, present);
  return true;
}

// The current thread has ended; those who wait for it alone go on.
void End() {
  threads[static_cast<size_t>(current)].fiber = nullptr;
  Warp& warp = WarpOf(current);
  warp.ended |= BitOf(current);
  --live;
  for (uint32_t left = warp.meeting; left != 0; left &= left - 1) {
    const int waiting = current / kLanes * kLanes + std::countr_zero(left);
    if ((warp.meeting & BitOf(waiting)) != 0) Complete(current / kLanes, threads[static_cast<size_t>(waiting)].mask);
  }
  if (live > 0 && at_barrier == live) ReleaseBarrier();
}

void RunThreads(Fiber* self);

Fiber* TakeFiber() {
  if (idle.empty()) return NewFiber(RunThreads);
  Fiber* const fiber = idle.back();
  idle.pop_back();
  return fiber;
}

// The current thread cannot go on: others do, until it can.
void Wait() {
  Fiber* const mine = threads[static_cast<size_t>(current)].fiber;
  const int next = TakeReady();
  if (next < 0) DieStuck();
  Become(next);
  Thread& thread = threads[static_cast<size_t>(next)];
  if (thread.fiber == mine) return;
  if (thread.fiber == nullptr) thread.fiber = TakeFiber();
  SwitchFiber(*mine, *thread.fiber);
}

// A fiber's life: it runs the current thread from beginning to end, then the next one that has not begun.
void RunThreads(Fiber* self) {
  for (;;) {
    thread_body(thread_call);
    End();
    const int next = TakeReady();
    if (next < 0 && live > 0) DieStuck();
    Fiber* to = &host;
    if (next >= 0) {
      Become(next);
      Thread& thread = threads[static_cast<size_t>(next)];
      if (thread.fiber == nullptr) {
        thread.fiber = self;
        continue;
      }
      to = thread.fiber;
    }
    idle.push_back(self);
    SwitchFiber(*self, *to);
  }
}

void RunBlock(int count) {
  for (int thread = 0; thread < count; ++thread) {
    Thread& of = threads[static_cast<size_t>(thread)];
    const auto at = static_cast<unsigned>(thread);
    of.index = {at % blockDim.x, at / blockDim.x % blockDim.y, at / blockDim.x / blockDim.y};
    of.copies.clear();
    of.groups = 0;
  }
  warps.fill({.ended = ~0u});
  ready_warps = 0;
  for (int warp = 0; warp * kLanes < count; ++warp) {
    const int lanes = std::min(kLanes, count - warp * kLanes);
    const uint32_t bits = lanes == kLanes ? ~0u : (1u << lanes) - 1;
    warps[static_cast<size_t>(warp)].ended = ~bits;
    MakeReady(warp, bits);
  }
  live = count;
  at_barrier = 0;
  lane_turn = static_cast<int>(Random() % kLanes);
  std::fill(dynamic_shared.begin(), dynamic_shared.end(), static_cast<std::byte>(kPoison));
  current = static_cast<int>(Random() % static_cast<unsigned>(count));
  Become(TakeReady());
  Thread& first = threads[static_cast<size_t>(current)];
  first.fiber = TakeFiber();
  SwitchFiber(host, *first.fiber);
}

bool IsLaunchable(const cudaLaunchConfig_t& config) {
  const dim3& grid = config.gridDim;
  const dim3& block = config.blockDim;
  const auto threads_of = uint64_t{block.x} * block.y * block.z;
  return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= kMostGridX && grid.y <= kMostGridYZ &&
         grid.z <= kMostGridYZ && block.x <= kMostThreads && block.y <= kMostThreads && block.z <= kMostBlockZ &&
         threads_of > 0 && threads_of <= kMostThreads;
}

void Make(const Copy& copy) {
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, copy.bytes);
  } else {
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

}  // namespace

cudaError_t LaunchGrid(const cudaLaunchConfig_t& config, const void* kernel, void (*body)(const void*),
                       const void* call) {
  if (!IsLaunchable(config)) return Note(cudaErrorInvalidConfiguration);
  if (config.dynamicSmemBytes > MostDynamicShared(kernel)) return Note(cudaErrorInvalidValue);
  const MutexLock lock(grids);
  EnterHost(host);
  thread_body = body;
  thread_call = call;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  dynamic_shared = std::vector<std::byte>(config.dynamicSmemBytes);  // as long as that: what lies beyond is noticed
  const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  const auto count = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  uint64_t step = 1 + Random() % blocks;
  while (std::gcd(step, blocks) != 1) ++step;
  uint64_t block = Random() % blocks;
  for (uint64_t i = 0; i < blocks; ++i) {
    blockIdx = {static_cast<unsigned>(block % gridDim.x), static_cast<unsigned>(block / gridDim.x % gridDim.y),
                static_cast<unsigned>(block / gridDim.x / gridDim.y)};
    RunBlock(count);
    block = (block + step) % blocks;  // both below 2^63
  }
  return cudaSuccess;
}

void Barrier() {
  WarpOf(current).at_barrier |= BitOf(current);
  if (++at_barrier == live) {
    ReleaseBarrier();  // this thread too: who goes on first is left to chance
  }
  Wait();
}

void Meet(Combine combine, unsigned mask, void* lane) {
  Thread& thread = threads[static_cast<size_t>(current)];
  Warp& warp = WarpOf(current);
  if ((mask & BitOf(current)) == 0) Die("a collective of lanes %#x, of which the caller is none", mask);
  thread.combine = combine;
  thread.mask = mask;
  thread.lane = lane;
  warp.meeting |= BitOf(current);
  Complete(current / kLanes, mask);
  Wait();
}

int LaneId() { return current % kLanes; }

std::byte* DynamicShared() { return dynamic_shared.data(); }

void StartCopy(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    Die("an asynchronous copy of %zu bytes from %p to %p, which are not aligned to that", bytes, from, to);
  }
  Thread& thread = threads[static_cast<size_t>(current)];
  const Copy copy{to, from, bytes, thread.groups};
  if (Random() % 2 == 0) {
    Make(copy);
  } else {
    thread.copies.push_back(copy);
  }
}

void CommitCopies() { ++threads[static_cast<size_t>(current)].groups; }

void AwaitCopies(int pending) {
  Thread& thread = threads[static_cast<size_t>(current)];
  std::erase_if(thread.copies, [&](const Copy& copy) {
    if (copy.group >= thread.groups - pending) return false;
    Make(copy);
    return true;
  });
}

void Die(const char* format, ...) {
  std::fprintf(stderr, "emulated CUDA: block (%u, %u, %u), thread (%u, %u, %u): ", blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, threadIdx.y, threadIdx.z);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

}  // namespace kvsteward::emulation
