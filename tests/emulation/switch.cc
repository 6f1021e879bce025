#include "tests/emulation/switch.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#ifdef __has_feature
#define KVS_HAS_FEATURE(x) __has_feature(x)
#else
#define KVS_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || KVS_HAS_FEATURE(address_sanitizer)
#include <sanitizer/common_interface_defs.h>
#define KVS_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) || KVS_HAS_FEATURE(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#define KVS_TSAN 1
#endif

// Saves what a called function must keep, and the stack pointer at *rdi; takes over the stack rsi and what lies there.
extern "C" void KvsSwitchStack(void** save, void* load);
asm(R"(
.text
.type KvsSwitchStack, @function
KvsSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size KvsSwitchStack, .-KvsSwitchStack
)");

namespace kvsteward::emulation {
namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr size_t kGuardBytes = 4096;

Fiber* switched_from;
Fiber* switched_to;

// The first and the last word of whoever was switched to.
void Arrive() {
#ifdef KVS_ASAN
  __sanitizer_finish_switch_fiber(switched_to->fake_stack, &switched_from->bottom, &switched_from->size);
#endif
}

void Begin() {
  Arrive();
  Fiber* const self = switched_to;
  self->entry(self);
  std::abort();
}

}  // namespace

Fiber* NewFiber(void (*entry)(Fiber*)) {
  void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    std::perror("emulated CUDA: a stack for a thread");
    std::abort();
  }
  auto* const fiber = new Fiber;
  fiber->entry = entry;
  fiber->bottom = static_cast<char*>(memory) + kGuardBytes;
  fiber->size = kStackBytes;
#ifdef KVS_TSAN
  fiber->tsan = __tsan_create_fiber(0);
#endif
  // As if Begin had been called: its return address is 0, the registers before that are 0.
  auto** top = reinterpret_cast<void**>(static_cast<char*>(memory) + kGuardBytes + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Begin);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
  return fiber;
}

void EnterHost(Fiber& host) {
#ifdef KVS_TSAN
  host.tsan = __tsan_get_current_fiber();
#endif
  (void)host;
}

void SwitchFiber(Fiber& from, Fiber& to) {
  switched_from = &from;
  switched_to = &to;
#ifdef KVS_TSAN
  __tsan_switch_to_fiber(to.tsan, 0);
#endif
#ifdef KVS_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
  KvsSwitchStack(&from.stack_pointer, to.stack_pointer);
  Arrive();
}

}  // namespace kvsteward::emulation
