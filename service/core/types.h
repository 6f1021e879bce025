// The words core speaks in: identifiers, times, shapes. Plain values.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "base/run.h"

namespace kvsteward::core {

// Core has no clock: every event brings the time. Only differences mean anything.
using Time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::microseconds>;
using Duration = std::chrono::microseconds;

using SocketId = uint64_t;               // one accepted connection on the fd socket
using LeaseId = uint64_t;                // public: in logs, metrics and notices. Never a secret
using CallId = uint64_t;                 // one RPC that waits for its reply; never 0
using JobId = uint64_t;                  // one eviction of one sequence on the device
using SequenceId = uint64_t;             // chosen by the worker, unique within its lease
using ObjectId = uint64_t;               // one memory object: an extent or a region
using Secret = std::array<uint8_t, 16>;  // a ticket or a lease key

// What core must know of a KV geometry to count blocks.
struct Shape {
  int32_t units = 0;         // layers * kv heads
  uint64_t block_bytes = 0;  // K and V of 16 tokens of one unit
  int32_t kv_heads = 1;      // units of a layer; they are neighbours
  bool operator==(const Shape&) const = default;
};

// Memory objects of a lease. Blocks live in extents; the regions are described in kvsteward/shm.h.
enum class ObjectKind : uint8_t { kExtent, kTables, kStatistics, kPlans };

struct Object {
  ObjectId id = 0;
  ObjectKind kind = ObjectKind::kExtent;
  uint32_t index = 0;          // of its kind within the lease; an extent's blocks start at index * blocks per extent
  uint64_t bytes = 0;          // exported to the worker
  uint64_t private_bytes = 0;  // an extent's side arrays, in the sidecar only
};

// Where a sequence's rows lie in the table region.
struct TablePlace {
  uint32_t chunk = 0;         // index of the table object
  uint64_t offset = 0;        // bytes into it
  uint32_t row_capacity = 0;  // blocks a row can hold
  bool operator==(const TablePlace&) const = default;
};

// Blocks in order of position. Most rows are one run or two, which cost no allocation: an eviction touches every row of
// a sequence.
using Row = absl::InlinedVector<Run, 2>;

// A word of the lease's statistics region (kvsteward/shm.h) and the value that it is to reach.
struct WordValue {
  uint32_t slot = 0;
  uint32_t value = 0;
  bool operator==(const WordValue&) const = default;
};

// A place in the plan region.
struct PlanPlace {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool operator==(const PlanPlace&) const = default;
};

// One unit as core knows it. Residents after T tokens seen: kept + (T - base).
// Invariants: kept <= base; normed, scored <= residents; `row` holds at least the residents.
struct Unit {
  Row row;
  int32_t kept = 0;      // residents when the row was last settled (creation, import, eviction)
  int32_t base = 0;      // tokens seen at that moment
  int32_t normed = 0;    // residents whose value norms are cached, the first ones
  int32_t scored = 0;    // residents whose running score is stored, the first ones
  int32_t planned = -1;  // residents that the last plan left it; -1: there was none
};

// Bytes of the arena by state; they always add up to it (P8).
struct Ledger {
  uint64_t arena = 0;
  uint64_t free = 0;         // in no object: anyone may have it
  uint64_t used = 0;         // blocks that belong to sequences
  uint64_t metadata = 0;     // regions, and the private side arrays of extents
  uint64_t reserved = 0;     // blocks of extents that belong to no sequence, compaction reserve included
  uint64_t quarantined = 0;  // all objects of leases that ended and are not destroyed yet
  bool operator==(const Ledger&) const = default;
  bool exact() const { return free + used + metadata + reserved + quarantined == arena; }
};

// Why memory could not be had. Bytes; `reclaimable` is what eviction of others could bring.
struct Shortage {
  uint64_t needed_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t reclaimable_bytes = 0;
  uint64_t retry_after_us = 0;
  bool operator==(const Shortage&) const = default;
};

// An answer's status, without the libraries that rpc/ encodes it with. Codes are those of gRPC.
enum class Code : uint8_t {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kUnavailable = 14,
};

struct Outcome {
  Code code = Code::kOk;
  std::string message;  // one sentence that says what to change
  Shortage shortage;    // with kResourceExhausted, when memory is what lacks
  bool ok() const { return code == Code::kOk; }
};

}  // namespace kvsteward::core
