// Memory objects, the stuff that the arena is made of: each is created whole, mapped once by the daemon and exported as
// a descriptor. Regions, which the host reads and writes, and extents, which may lie on a device, come from backends of
// their own; on the host one kind makes both. Backends are thread-compatible; what they make is independent of each
// other and of its backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/piece.h"

namespace kvsteward::memory {

// Who may write an object: anyone who has its descriptor, or only the mapping that the daemon made on creation.
enum class Writers : uint8_t { kEveryone, kDaemon };

// The daemon's share of an object. Its end unmaps and closes. What everyone writes is emptied before, so that others
// that still map it read zeroes: on the host its memory is free at once, on a device when nobody has it mapped. What
// only the daemon writes is free when nobody has it mapped.
class MemoryObject {
 public:
  virtual ~MemoryObject() = default;
  virtual std::span<std::byte> bytes() const = 0;  // an extent's may be device addresses
  virtual int descriptor() const = 0;              // close-on-exec; stays the object's. -1: it is never exported
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Makes an object of `bytes` zeroes, allocated in full, which nobody can ever shrink or grow. It is mapped at `at`,
  // or anywhere if that is null, and not inherited over fork. RESOURCE_EXHAUSTED if the machine, or our cgroup, has not
  // so much; then nothing is left behind. INVALID_ARGUMENT if `bytes` is no positive multiple of the granularity (of
  // the page size for regions).
  // REQUIRES: [at, at + bytes) is reserved address space of the caller's; it is reserved again when the object ends.
  virtual absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) = 0;
};

// Reserved addresses, with memory only where objects were placed. REQUIRES: objects in it end before.
class AddressRange {
 public:
  virtual ~AddressRange() = default;
  virtual std::byte* data() const = 0;
  // Copies from and to the host; done on return. An error means that the device is lost.
  // REQUIRES: objects lie where they copy.
  virtual absl::Status Store(std::span<const Piece> pieces) const = 0;
  virtual absl::Status Load(const std::byte* from, std::span<std::byte> to) const = 0;
};

class ExtentBackend : public Backend {
 public:
  // How objects are exported: "memfd", "cuda-posix-fd".
  virtual std::string_view name() const = 0;
  // Sizes and addresses of objects and ranges are multiples of it.
  virtual uint64_t granularity() const = 0;
  // RESOURCE_EXHAUSTED if there are not so many addresses.
  virtual absl::StatusOr<std::unique_ptr<AddressRange>> Reserve(uint64_t bytes) = 0;

  // Whether private memory is there from the start, so that a shortage shows then, or, where the machine can, comes
  // with the first touch.
  enum class Presence : uint8_t { kNow, kWhenTouched };
  // As Create, for memory of the daemon's own, which is never exported.
  virtual absl::StatusOr<std::unique_ptr<MemoryObject>> CreatePrivate(uint64_t bytes, std::byte* at,
                                                                      Presence presence) = 0;

  // What could be created now; everything, if the memory of an object that ended is always free at once.
  virtual absl::StatusOr<uint64_t> FreeBytes() const = 0;
};

}  // namespace kvsteward::memory
