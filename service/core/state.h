// Core's state and the functions that move it, by idea: leases.cc (sockets, Hold, the end), attach.cc, objects.cc
// (memory objects and growth), sequences.cc (create, release), reservations.cc (the queue, Reserve, Truncate),
// evictions.cc and observations.cc (the calls), jobs.cc (the device), waves.cc (compaction), check.cc, core.cc
// (dispatch, operators). Maps are ordered: the same events always give the same effects.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "service/core/arena.h"
#include "service/core/core.h"
#include "service/core/lease.h"

namespace kvsteward::core {

inline constexpr char kDraining[] = "the sidecar is draining; use another one";

// Where a call that waits is to be found.
enum class CallKind : uint8_t { kAttach, kHold, kQueued, kDevice, kRelease };
struct WaitingCall {
  CallKind kind = CallKind::kAttach;
  LeaseId lease = 0;
  SequenceId sequence = 0;  // of a kRelease
};

// What a CreateSequence or one item of a Reserve takes from its lease.
struct Need {
  uint64_t blocks = 0;
  uint32_t longest_row = 0;   // that it will have, in blocks
  uint64_t table_places = 0;  // neighbours in one chunk
};
enum class Supply : uint8_t { kReady, kGrowing, kRefused };

struct Core::State {
  State(Config given, BudgetTokens tokens);

  // ---- core.cc
  void On(const StatusAsked& event);
  void On(const DrainAsked& event);
  void On(const SetTenantAsked& event);
  void On(const CallCancelled& event);
  void ReportDrained();
  // Remembers a call that waits; answers or forgets one.
  void Park(CallId call, const WaitingCall& place);
  void Forget(CallId call);
  void Answer(CallId call, ReplyBody body);
  void Refuse(CallId call, Outcome outcome);
  void Refuse(CallId call, Code code, std::string message) { Refuse(call, Outcome{code, std::move(message), {}}); }
  void RefuseDraining(CallId call) { Refuse(call, Code::kUnavailable, kDraining); }
  template <typename T>
  void Emit(T effect) {
    effects.emplace_back(std::move(effect));
  }

  // ---- leases.cc
  void On(const SocketOpened& event);
  void On(const SocketClosed& event);
  void On(const Detached& event);
  void On(const ProcessGone& event);
  void On(const HoldOpened& event);
  void On(const SelfTested& event);
  // The lease a call names; nullptr if the call has been refused.
  Lease* Named(const LeaseRef& ref, CallId call);
  Lease* NamedLive(const LeaseRef& ref, CallId call);
  // For calls that ask for more: as NamedLive, and while draining every one is refused, so that draining ends.
  Lease* NamedServing(const LeaseRef& ref, CallId call);
  Lease* OfSocket(SocketId socket);
  void NotifyLive(const Lease& lease);
  // The lease is over: key, ticket and calls die, memory stays until the end is confirmed.
  void End(Lease& lease);
  void Confirm(SocketId socket);
  // Destroys what an ended and confirmed lease has, once no job can touch it, and forgets it when nothing is left.
  void Reap(Lease& lease);

  // ---- attach.cc
  void On(const AttachAsked& event);
  void RepeatAttach(Lease& lease, const AttachAsked& event);
  void FinishAttach(Lease& lease, const Outcome& failure);
  AttachReply AttachReplyOf(const Lease& lease) const;
  // Leases of the tenant whose Attach has begun.
  uint64_t LeasesOf(size_t tenant) const;

  // ---- objects.cc
  void On(const ObjectReady& event);
  void On(const ObjectDestroyed& event);
  // Begins a growth. REQUIRES: none is under way and the bytes of all fit the account's room.
  void Grow(Lease& lease, CallId call, const std::vector<Object>& wanted);
  void FinishGrowth(Lease& lease);
  void Adopt(Lease& lease, const Object& object);
  void Destroy(Lease& lease, OwnedObject& owned);
  // Sees to it that the lease has what is needed: it has, or it grows, or `why` says why not.
  Supply Provide(Lease& lease, CallId call, const Need& need, Outcome& why);
  uint64_t ExtentsFor(const Lease& lease, const Need& need) const;
  // Bytes of a new table chunk; 0 if the lease needs none.
  uint64_t ChunkBytesFor(const Lease& lease, const Need& need) const;
  // Blocks that no Reserve may use, if the longest row has `longest_row` blocks and the lease `blocks`.
  uint64_t CompactionReserve(uint64_t blocks, uint32_t longest_row) const;

  // ---- sequences.cc
  void On(const CreateSequenceAsked& event);
  void On(const ReleaseSequenceAsked& event);
  // False: it waits for memory.
  bool Create(Lease& lease, QueuedCall& queued);
  // Forgets the sequence. REQUIRES: it has no job. The caller serves short jobs afterwards.
  ReleaseSequenceReply Release(Lease& lease, Sequence& sequence);
  void RememberRelease(Lease& lease, uint64_t request_id, uint64_t request_hash, const ReleaseSequenceReply& reply);
  // Drops the sequence's plan; a result kept for repetition no longer points to it.
  void DropPlan(Lease& lease, Sequence& sequence);
  void CountLongestRow(Lease& lease, Sequence& sequence);

  // ---- reservations.cc
  void On(const ReserveAsked& event);
  void On(const TruncateAsked& event);
  // Puts the call at the end of the lease's queue, or refuses it if that is full.
  void Enqueue(Lease& lease, CallId call, std::variant<CreateSequenceAsked, ReserveAsked> asked);
  void ServeQueue(Lease& lease);
  bool ServeReserve(Lease& lease, QueuedCall& queued);
  // nullopt: it waits for memory.
  std::optional<ReserveResult> Reserve(Lease& lease, CallId call, const ReserveItem& item);
  // Gives every row the blocks of its residents at `tokens`. REQUIRES: they are free in the lease, tokens >= reserved.
  std::vector<AppendToRow> ExtendRows(Lease& lease, Sequence& sequence, int32_t tokens);
  // Takes from every row what its residents at `tokens` do not need; returns the number of blocks.
  uint64_t ShortenRows(Lease& lease, Sequence& sequence, int32_t tokens);

  // ---- evictions.cc
  void On(const EvictAsked& event);
  // Starts the item's job, or puts the answer that needs none into `result`; returns whether one runs.
  bool StartEvict(Lease& lease, const EvictItem& item, Job&& job, EvictResult& result);
  // Whether some unit has a block more than it may keep. If none has, `result` is the answer.
  bool Due(const Lease& lease, const Sequence& sequence, const EvictItem& item, EvictResult& result) const;

  // ---- observations.cc
  void On(const ObserveAsked& event);
  bool StartObserve(Lease& lease, const ObserveItem& item, Job&& job, ObserveResult& result);

  // ---- jobs.cc
  void On(const EvictPlanned& event);
  void On(const JobEnded& event);
  // Answers a call whose items are answered, or lets it wait for those that run.
  void AwaitJobs(Lease& lease, CallId call, DeviceCall asked);
  // An item of the sequence is over: its done word is stored, unless a job of another item still has the sequence.
  void GiveBack(const Lease& lease, SequenceId sequence, const std::optional<WordValue>& done);
  // The policy of an item that names `named`, or none.
  const PolicyRef& PolicyOf(const Lease& lease, const PolicyRef& named) const;
  Outcome CheckJobs(const Lease& lease) const;
  // Asks the device. What is the lease's and the sequence's in both structs is filled in.
  void StartJob(Lease& lease, Sequence& sequence, Job&& job, RunEvict&& ask);
  // The job moves nothing more than it must.
  void StopJob(Job& job);
  void EndJobOf(Job& job);
  // The job's result: kept for repetition, and to the call that waits for it.
  template <typename ReplyKind, typename Result>
  void Deliver(const Job& job, Sequence& sequence, const Result& result);

  // ---- waves.cc
  void On(const UnitsCompacted& event);
  void QueueWave(Lease& lease, Job& job);
  void ServeShortJobs(Lease& lease);
  size_t WaveEnd(const Lease& lease, const Job& job) const;
  bool SendWave(Lease& lease, Job& job);
  bool WithinLayer(const Lease& lease, const Job& job, size_t i) const;
  void Settle(Lease& lease, Sequence& sequence, Job& job, CompactTo& done);
  void Conclude(Lease& lease, Job& job);

  // ---- check.cc
  absl::Status Check() const;
  absl::Status CheckLease(const Lease& lease) const;
  absl::Status CheckMemory(const Lease& lease) const;

  Config config;
  BudgetTokens budget_tokens;
  Arena arena;
  Time now{};                   // of the event being applied
  std::vector<Effect> effects;  // of the event being applied

  bool draining = false;
  bool drained = false;
  uint64_t next_epoch;
  LeaseId next_lease = 1;
  ObjectId next_object = 1;
  JobId next_job = 1;

  std::map<LeaseId, Lease> leases;
  std::map<SocketId, LeaseId> sockets;
  std::map<Secret, LeaseId> tickets;  // of leases that have not ended, like keys
  std::map<Secret, LeaseId> keys;
  std::map<ObjectId, LeaseId> objects;
  std::map<JobId, Job> jobs;
  std::map<CallId, WaitingCall> calls;
  std::map<CallId, DeviceCall> device_calls;
};

}  // namespace kvsteward::core
