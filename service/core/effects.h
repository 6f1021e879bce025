// What core wants done. Steward carries effects out in order; each either ends at once or comes back as an event.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "service/core/events.h"
#include "service/core/types.h"

namespace kvsteward::core {

// ---- Replies -------------------------------------------------------------------------------------------------------
struct AttachReply {
  LeaseId lease = 0;
  Secret key{};
  uint64_t epoch = 0;
  uint64_t extent_bytes = 0;
  uint64_t blocks_per_extent = 0;
};
struct CreateSequenceReply {
  TablePlace table;
  uint32_t extents = 0;  // how many extents and table chunks the lease has: the worker maps what it has not mapped yet
  uint32_t table_chunks = 0;
  uint64_t version = 0;
};
struct ReserveResult {
  SequenceId sequence = 0;
  Outcome outcome;
  int32_t reserved_tokens = 0;  // room, in tokens seen
  uint64_t version = 0;
};
struct ReserveReply {
  uint32_t extents = 0;
  std::vector<ReserveResult> results;
};
struct TruncateReply {
  int32_t tokens = 0;
  int32_t reserved_tokens = 0;
  uint64_t version = 0;
};
struct EvictResult {
  SequenceId sequence = 0;
  Outcome outcome;
  bool no_op = false;
  PolicyRef policy;  // the tenant's if the request named none
  int32_t budget_tokens = 0;
  int32_t unsplit_layers = 0;    // layers in which `split` found room for no full head
  bool planned_on_host = true;   // no device made the plan
  std::vector<int32_t> lengths;  // [units] residents before; empty on a refusal
  std::vector<int32_t> kept;     // [units] residents after (planned, with plan_only)
  uint32_t units_compacted = 0;  // less than all after a cancel
  uint64_t blocks_freed = 0;     // given back to the lease
  uint64_t bytes_evicted = 0;    // K and V of tokens that went
  uint64_t bytes_returned = 0;   // blocks_freed * block_bytes
  uint64_t version = 0;
  PlanPlace plan;  // bytes = 0 if none was asked for
  EvictTimes times;
};
struct EvictReply {
  std::string tenant;  // for metrics
  std::vector<EvictResult> results;
};
struct ObserveResult {
  SequenceId sequence = 0;
  Outcome outcome;
  int32_t observed_tokens = 0;  // rows below are in the running scores
  uint64_t version = 0;
  EvictTimes times;
  PolicyRef policy;  // as in EvictResult
};
struct ObserveReply {
  std::string tenant;  // for metrics
  std::vector<ObserveResult> results;
};
struct ReleaseSequenceReply {
  uint64_t blocks_freed = 0;
};

struct TenantStatus {
  std::string name;
  uint64_t hard_limit_bytes = 0;
  uint64_t charged_bytes = 0;  // all its objects
  uint64_t used_bytes = 0;     // blocks of its sequences
  PolicyRef policy;            // of calls that name none
};
enum class LeaseState : uint8_t { kAttaching, kAttached, kLive, kEnding, kQuarantined };
struct LeaseStatus {
  LeaseId lease = 0;
  std::string tenant;
  LeaseState state = LeaseState::kAttaching;
  uint64_t extents = 0;
  uint64_t charged_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t sequences = 0;
  uint64_t running_evictions = 0;
};
struct StatusReply {
  Ledger ledger;
  uint64_t epoch = 0;
  bool draining = false;
  std::vector<TenantStatus> tenants;
  std::vector<LeaseStatus> leases;
};
struct SetTenantReply {};

using ReplyBody = std::variant<std::monostate, AttachReply, CreateSequenceReply, ReserveReply, TruncateReply,
                               EvictReply, ObserveReply, ReleaseSequenceReply, StatusReply, SetTenantReply>;

// Ends a call. With an outcome that is not OK the body is monostate. For a Hold stream it ends the stream.
struct Reply {
  CallId call = 0;
  Outcome outcome;
  ReplyBody body;
};

// ---- Notices on a Hold stream --------------------------------------------------------------------------------------
enum class NoticeKind : uint8_t { kLive, kDraining };
struct Notify {
  CallId call = 0;
  NoticeKind kind = NoticeKind::kLive;
};

// ---- Memory --------------------------------------------------------------------------------------------------------
struct CreateObject {  // answered by ObjectReady
  LeaseId lease = 0;
  Object object;
  Shape shape;
  std::shared_ptr<const LeaseSpec> spec;  // as AttachAsked brought it
};
struct ExportObject {  // its descriptor goes to the worker over the lease's fd socket
  LeaseId lease = 0;
  SocketId socket = 0;
  Object object;
};
struct DestroyObject {  // answered by ObjectDestroyed
  LeaseId lease = 0;
  ObjectId object = 0;
};
// The lease ended: objects of it that are not yet begun need not be created. Each of those answers ObjectReady with a
// failure; what is under way is created and answers as ever.
struct DropCreates {
  LeaseId lease = 0;
};
struct RunSelfTest {  // answered by SelfTested
  LeaseId lease = 0;
};
struct CloseSocket {
  SocketId socket = 0;
  std::string reason;
};

// ---- Tables --------------------------------------------------------------------------------------------------------
// A sequence's table entry is set up with empty rows (or with the given residents').
struct InitTable {
  LeaseId lease = 0;
  TablePlace table;
  std::vector<Unit> units;
};
// Blocks were appended to rows; `from` is the first new block's index in the row of each unit.
struct AppendToRow {
  uint32_t unit = 0;
  uint32_t from = 0;
  Row blocks;
};
struct AppendRows {
  LeaseId lease = 0;
  TablePlace table;
  std::vector<AppendToRow> rows;
};
// Rows were cut at their end: how many blocks each has left.
struct RowEnd {
  uint32_t unit = 0;
  uint32_t blocks = 0;
};
struct TrimRows {
  LeaseId lease = 0;
  TablePlace table;
  std::vector<RowEnd> rows;
};
// Writes the positions of imported residents into the side arrays.
struct StorePositions {
  LeaseId lease = 0;
  std::vector<Unit> units;
  std::shared_ptr<const std::vector<int32_t>> positions;
};

// ---- Words ---------------------------------------------------------------------------------------------------------
// A sequence is its worker's again: the done word that its item named gets the value. Comes before the reply.
struct StoreDone {
  LeaseId lease = 0;
  WordValue done;
};

// ---- The device ----------------------------------------------------------------------------------------------------
// One job: an eviction, or rows into running scores.
struct RunEvict {  // answered by EvictPlanned
  JobId job = 0;
  LeaseId lease = 0;
  std::string tenant;
  SequenceId sequence = 0;
  Shape shape;
  TablePlace table;
  std::vector<Unit> units;
  int32_t written_tokens = 0;
  int32_t observed_tokens = 0;  // rows below are in the running scores,
  PolicyRef accumulated;        // which this policy's stages made; null: none are
  uint8_t norms = 0;            // which kind the units' `normed` counts, as EvictPlanned said
  bool observe = false;         // only accumulate rows
  bool plan_only = false;
  bool export_plan = false;
  bool export_scores = false;
  PlanPlace plan;
  PolicyRef policy;
  std::shared_ptr<const EvictSpec> spec;
};
struct CompactTo {
  uint32_t unit = 0;
  Row row;  // new blocks, exactly as many as the kept tokens need
};
struct CompactUnits {  // answered by UnitsCompacted
  JobId job = 0;
  std::vector<CompactTo> units;
};
// Asks a job to stop before its next layer. What is already under way still answers, and a wave that begins within a
// layer is still compacted to that layer's end.
struct CancelJob {
  JobId job = 0;
};
// Core is done with the job. Answered by JobEnded.
struct EndJob {
  JobId job = 0;
};

// Drain is complete: every call of a worker but Hold is answered, no job runs.
struct Drained {};

using Effect = std::variant<Reply, Notify, CreateObject, ExportObject, DestroyObject, DropCreates, RunSelfTest,
                            CloseSocket, InitTable, AppendRows, TrimRows, StorePositions, StoreDone, RunEvict,
                            CompactUnits, CancelJob, EndJob, Drained>;

}  // namespace kvsteward::core
