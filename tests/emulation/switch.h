// Stackful fibers and the switch between them: x86-64, System V. They are never freed. Not thread-safe: one thread at a
// time runs any of them, not always the same one.
#pragma once

#include <cstddef>

namespace kvsteward::emulation {

struct Fiber {
  void* stack_pointer = nullptr;  // while it does not run
  void (*entry)(Fiber*) = nullptr;
  // What sanitizers want to know.
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;
  void* tsan = nullptr;
};

// A fiber that calls entry(itself) when it is first switched to. `entry` does not return.
Fiber* NewFiber(void (*entry)(Fiber*));

// Makes `host` stand for the calling thread's own stack.
void EnterHost(Fiber& host);

// From the one that runs to another one; returns when somebody switches back.
void SwitchFiber(Fiber& from, Fiber& to);

}  // namespace kvsteward::emulation
