// What can happen to core: everything that the world tells it. Shapes, lengths and ranges that need no state have been
// checked by rpc/; whatever needs state is checked by core.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "service/core/types.h"

namespace kvsteward::engine {
struct Policy;  // core hands policies on and never looks into them
}

namespace kvsteward::core {

// ---- The fd socket: the lease's life -------------------------------------------------------------------------------
struct SocketOpened {
  SocketId socket = 0;
  std::string tenant;
  Secret ticket{};
  bool death_observable = true;  // there is a pidfd
};
// The connection is gone: the lease is suspect from here on.
struct SocketClosed {
  SocketId socket = 0;
};
// The worker says that it has unmapped everything and is done.
struct Detached {
  SocketId socket = 0;
};
struct ProcessGone {
  SocketId socket = 0;
};

// ---- Calls of workers ----------------------------------------------------------------------------------------------
// Which lease a call speaks for. `epoch` tells a lease of an earlier sidecar from one that never was.
struct LeaseRef {
  Secret key{};
  uint64_t epoch = 0;
};

// What memory and device must know of a lease and core does not: geometry, window slots. Core only hands it on.
struct LeaseSpec;

struct AttachAsked {
  CallId call = 0;
  Secret ticket{};
  Secret new_key{};  // fresh random bytes: the key this lease will have (core has no randomness)
  Shape shape;
  uint64_t statistics_bytes = 0;
  uint64_t plan_bytes = 0;
  std::string geometry;  // canonical text of the whole request, to tell a repeated Attach from another one
  std::shared_ptr<const LeaseSpec> spec;
};
// The worker has mapped its regions and written the self-test pattern; the stream `call` carries its notices from now
// on.
struct HoldOpened {
  CallId call = 0;
  LeaseRef lease;
};
struct SelfTested {
  LeaseId lease = 0;
  bool passed = false;
};

// Positions of tokens that are already resident when a sequence is created (a hand-off, a replay).
struct Residents {
  int32_t seen = 0;                                       // tokens seen so far
  std::vector<int32_t> lengths;                           // [units]
  std::shared_ptr<const std::vector<int32_t>> positions;  // all units' positions one after the other
};
struct CreateSequenceAsked {
  CallId call = 0;
  LeaseRef lease;
  SequenceId sequence = 0;
  int32_t max_tokens = 0;  // most tokens this sequence will ever see
  uint64_t request_hash = 0;
  std::optional<Residents> residents;
};

struct ReserveItem {
  SequenceId sequence = 0;
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
  int32_t total_tokens = 0;    // wanted room, in tokens seen
  int32_t written_tokens = 0;  // of which written so far
};
struct ReserveAsked {
  CallId call = 0;
  LeaseRef lease;
  std::vector<ReserveItem> items;
};

struct TruncateAsked {
  CallId call = 0;
  LeaseRef lease;
  SequenceId sequence = 0;
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
  int32_t tokens = 0;  // tokens seen from now on
};

// What the device needs and core does not: budget, queries, inputs. Steward's business; core only hands it on.
struct EvictSpec;
using PolicyRef = std::shared_ptr<const engine::Policy>;

struct EvictItem {
  SequenceId sequence = 0;
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
  int32_t written_tokens = 0;
  std::optional<uint64_t> if_version;
  bool plan_only = false;
  bool lazy = false;           // only if some unit has a block more than its budget
  bool export_plan = false;    // masks and index lists are wanted in the plan region
  bool export_scores = false;  // scores too
  std::optional<WordValue> done;
  PolicyRef policy;  // null: the tenant's
  std::shared_ptr<const EvictSpec> spec;
};
struct EvictAsked {
  CallId call = 0;
  LeaseRef lease;
  std::vector<EvictItem> items;
};

// Rows of queries for a sequence's running scores.
struct ObserveItem {
  SequenceId sequence = 0;
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
  int32_t written_tokens = 0;
  PolicyRef policy;  // null: the tenant's
  std::shared_ptr<const EvictSpec> spec;
  std::optional<WordValue> done = {};
};
struct ObserveAsked {
  CallId call = 0;
  LeaseRef lease;
  std::vector<ObserveItem> items;
};

struct ReleaseSequenceAsked {
  CallId call = 0;
  LeaseRef lease;
  SequenceId sequence = 0;
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
};

// The caller went away or its deadline passed: what can be stopped stops, nothing is replied.
struct CallCancelled {
  CallId call = 0;
};

// ---- The device ----------------------------------------------------------------------------------------------------
struct EvictTimes {
  uint64_t queue_us = 0;
  uint64_t score_us = 0;
  uint64_t select_us = 0;
  uint64_t compact_us = 0;
};
// Stages 1-8 of a job are done, or its rows are in the running scores (or it was refused: then nothing of the sequence
// changed but the cached norms).
struct EvictPlanned {
  JobId job = 0;
  Outcome outcome;
  bool no_op = false;
  // What the side array has now: this kind of value norm of every resident, 0: no norms that may be used. None: it is
  // as it was.
  std::optional<uint8_t> norms;
  int32_t budget_tokens = 0;     // k
  int32_t observed_tokens = -1;  // every resident's running score is stored, rows below are in it; -1: as it was
  int32_t unsplit_layers = 0;
  bool on_host = true;          // the host made the plan, also if the sequence is in a device's memory
  std::vector<int32_t> kept;    // [units]; empty on a no-op, a refusal or an Observe
  std::vector<int32_t> scored;  // [units] of `kept`, those with a running score, the first ones; empty: none
  EvictTimes times;
};
// A wave of units is copied and published, in the order given; on a cancel, the first `units` of it, to a layer's end.
struct UnitsCompacted {
  JobId job = 0;
  uint32_t units = 0;
  uint64_t compact_us = 0;
  Outcome outcome = {};  // why there are fewer, if it was no cancel
};
// The job holds nothing of the lease any more.
struct JobEnded {
  JobId job = 0;
};

// ---- Memory --------------------------------------------------------------------------------------------------------
struct ObjectReady {
  ObjectId object = 0;
  Outcome outcome;  // kResourceExhausted if the machine has no more
};
struct ObjectDestroyed {
  ObjectId object = 0;
};

// ---- Operators -----------------------------------------------------------------------------------------------------
struct StatusAsked {
  CallId call = 0;
};
struct DrainAsked {};
// What a tenant's calls use that name no policy; running jobs keep theirs.
struct SetTenantAsked {
  CallId call = 0;
  std::string tenant;
  PolicyRef policy;  // null: back to the configured one
};

using Event = std::variant<SocketOpened, SocketClosed, Detached, ProcessGone, AttachAsked, HoldOpened, SelfTested,
                           CreateSequenceAsked, ReserveAsked, TruncateAsked, EvictAsked, ObserveAsked,
                           ReleaseSequenceAsked, CallCancelled, EvictPlanned, UnitsCompacted, JobEnded, ObjectReady,
                           ObjectDestroyed, StatusAsked, DrainAsked, SetTenantAsked>;

}  // namespace kvsteward::core
