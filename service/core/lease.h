// What core remembers of a lease: its objects, free blocks, sequences, running evictions and waiting calls. Plain data;
// the functions that keep the invariants are Core::State's (state.h).
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "service/core/arena.h"
#include "service/core/effects.h"
#include "service/core/events.h"
#include "service/core/layout.h"
#include "service/core/run_allocator.h"
#include "service/core/types.h"

namespace kvsteward::core {

// The last request of a sequence that carried an id and was carried out. A refusal changes nothing, so it is not kept:
// repeating it tries again. Results are kept without their policies, which may be large.
struct LastRequest {
  uint64_t id = 0;  // 0: none
  uint64_t hash = 0;
  std::variant<std::monostate, ReserveResult, TruncateReply, EvictResult, ObserveResult> result;
};

struct PendingRelease {  // waits for the sequence's job to end
  CallId call = 0;       // 0: the caller went away
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
};

// Invariants: base of every unit <= written <= reserved <= max_tokens; observed <= written; `accumulated` is null iff
// it is 0, and then nothing is scored; nothing is normed if `norms` is 0. A unit's row has exactly the blocks of its
// residents at `reserved` tokens; while a job runs, units it has settled have exactly those of `kept`.
struct Sequence {
  SequenceId id = 0;
  int32_t max_tokens = 0;
  int32_t written = 0;   // tokens seen and written, as far as the worker has said: a fact that no refusal takes back
  int32_t reserved = 0;  // room, in tokens seen
  uint64_t version = 1;
  std::vector<Unit> units;
  int32_t observed = 0;        // rows of tokens below it are in the running scores,
  PolicyRef accumulated;       // which are those of this policy's first stages
  int32_t planned_at = 0;      // tokens seen when the last plan was carried out, the one that Unit::planned is of,
  int32_t planned_budget = 0;  // and its budget in tokens
  uint8_t norms = 0;           // kind of value norm that the units' `normed` counts
  uint64_t blocks = 0;         // of all rows
  uint32_t longest_row = 0;    // in blocks; while a job runs, at least that
  TablePlace table;
  Run table_run;  // its place in Lease::tables
  Run plan;       // its place in Lease::plans, count 0 if it has none
  JobId job = 0;  // 0: none runs. A sequence with a job is busy
  uint64_t create_hash = 0;
  CreateSequenceReply created;
  LastRequest last;
  std::optional<PendingRelease> release;
};

// Residents of a unit once its sequence has seen `tokens`. REQUIRES: tokens >= unit.base.
inline int32_t ResidentsAt(const Unit& unit, int32_t tokens) { return unit.kept + (tokens - unit.base); }

// One eviction on the device, or rows on their way into running scores.
enum class JobStage : uint8_t {
  kPlanning,    // RunEvict is under way
  kShort,       // waits in Lease::short_jobs for free blocks
  kCompacting,  // a wave is under way
  kEnding,      // EndJob is under way
};
struct Job {
  JobId id = 0;
  LeaseId lease = 0;
  SequenceId sequence = 0;
  CallId call = 0;  // 0: nobody waits for it any more
  size_t item = 0;  // index in that call
  uint64_t request_id = 0;
  uint64_t request_hash = 0;
  std::optional<WordValue> done;  // owed when the job has ended
  bool plan_only = false;
  bool observe = false;
  JobStage stage = JobStage::kPlanning;
  bool cancelled = false;
  bool norms_cached = false;        // of all residents
  std::vector<int32_t> scored;      // [units] residents with a running score once the unit is settled; empty: none
  std::vector<uint32_t> shrinking;  // units that lose tokens, ascending
  size_t sent = 0;                  // of these, sent to the device
  size_t settled = 0;               // of these, compacted
  std::vector<CompactTo> wave;      // under way; its blocks are the job's
  Run plan;                         // place in Lease::plans, the sequence's once the job has ended well
  Time short_since;
  EvictResult result;  // an Observe has but outcome and times of it
};

// A call with one answer for many jobs.
struct DeviceCall {
  ReplyBody reply;  // an EvictReply or ObserveReply
  size_t running = 0;
};

enum class ObjectStep : uint8_t { kCreating, kReady, kDestroying };
struct OwnedObject {
  Object object;
  ObjectStep step = ObjectStep::kCreating;
};

// Objects that are being created together, for one purpose: all of them or none. A lease has at most one growth.
struct Growth {
  CallId call = 0;  // for whom: the head of Lease::queue; 0 for an Attach
  std::vector<ObjectId> objects;
  size_t creating = 0;
  Outcome failure;
};

inline constexpr size_t kMostQueuedCalls = 64;  // of a lease

// A CreateSequence or Reserve. They are served in the order they came; the first may wait for memory.
struct QueuedCall {
  CallId call = 0;
  std::variant<CreateSequenceAsked, ReserveAsked> asked;
  bool checked = false;                // CreateSequence: its residents are
  std::vector<ReserveResult> results;  // Reserve: of the first items
};

struct ReleasedRequest {
  uint64_t id = 0;
  uint64_t hash = 0;
  ReleaseSequenceReply reply;
};

struct Lease {
  LeaseId id = 0;
  SocketId socket = 0;
  std::string tenant;
  Secret ticket{};
  bool death_observable = true;
  LeaseState state = LeaseState::kAttaching;
  bool confirmed = false;  // the worker's process is gone, or it has unmapped everything

  bool attach_begun = false;  // from here on the fields below hold; an Attach that failed takes it back
  std::string geometry;
  std::shared_ptr<const LeaseSpec> spec;
  Secret key{};
  uint64_t epoch = 0;
  Shape shape;
  Layout layout;
  uint64_t plan_places = 0;  // of the plan region, its header included
  std::vector<CallId> attach_calls;

  CallId hold = 0;  // 0: no stream is open
  bool testing = false;
  bool test_failed = false;

  Account account;
  std::map<ObjectId, OwnedObject> objects;
  std::optional<Growth> growth;
  std::optional<Outcome> growth_failure;  // the head of the queue is about to hear of it
  uint32_t extents = 0;                   // exported, as are the table chunks
  std::vector<uint32_t> chunk_starts;  // number of each table chunk's first place; a place is numbered over all chunks
  uint32_t table_places = 0;           // of all chunks
  RunAllocator blocks;
  RunAllocator tables;  // a chunk's first place holds its header and is never free, so no run crosses chunks
  RunAllocator plans;   // likewise

  std::map<SequenceId, Sequence> sequences;
  std::map<uint32_t, uint32_t> longest_rows;  // how many sequences have a longest_row of so many blocks
  std::set<JobId> jobs;
  std::deque<JobId> short_jobs;
  std::deque<QueuedCall> queue;
  std::deque<ReleasedRequest> released;  // the last 64 with an id
  std::set<CallId> calls;                // all that wait, the Hold stream included

  bool ended() const { return state == LeaseState::kEnding || state == LeaseState::kQuarantined; }
  uint64_t block_count() const { return uint64_t{extents} * layout.blocks_per_extent; }
  uint32_t longest_row() const { return longest_rows.empty() ? 0 : longest_rows.rbegin()->first; }
};

}  // namespace kvsteward::core
