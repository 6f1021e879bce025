// Memory objects, the stuff that the arena is made of: each is created whole, mapped once by the daemon and exported as
// a descriptor. A backend is thread-compatible; objects are independent of each other and of their backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace kvsteward::memory {

// Who may write an object: anyone who has its descriptor, or only the mapping that the daemon made on creation.
enum class Writers : uint8_t { kEveryone, kDaemon };

// The daemon's share of an object. Its end unmaps and closes. What everyone writes is emptied before: its memory is
// free at once, and others that still map it read zeroes. What only the daemon writes is free when nobody has it
// mapped.
class MemoryObject {
 public:
  virtual ~MemoryObject() = default;
  virtual std::span<std::byte> bytes() const = 0;
  virtual int descriptor() const = 0;  // close-on-exec; stays the object's
};

class Backend {
 public:
  virtual ~Backend() = default;
  // How objects are exported: "memfd".
  virtual std::string_view name() const = 0;

  // Makes an object of `bytes` zeroes, allocated in full, which nobody can ever shrink or grow. It is mapped at `at`,
  // or anywhere if that is null, and not inherited over fork. RESOURCE_EXHAUSTED if the machine, or our cgroup, has not
  // so much; then nothing is left behind. INVALID_ARGUMENT if `bytes` is no positive multiple of the page size.
  // REQUIRES: [at, at + bytes) is reserved address space of the caller's; it is reserved again when the object ends.
  virtual absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) = 0;
};

}  // namespace kvsteward::memory
