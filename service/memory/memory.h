// All memory objects of the daemon, created and destroyed on a thread of their own: allocating an extent takes many
// milliseconds and must not stop the event loop. Destroys go first, each before every create that was asked for later;
// creates take turns over leases, so that no lease's growth keeps others waiting for more than one object each, and
// come in the order asked for within a lease. Thread-safe.
//
// An extent that was destroyed may still be mapped by a worker that lives on. On a device that keeps its memory, and
// nobody can take it away; so its ObjectDestroyed comes when the device has free what the arena counts as in no object,
// and the extent. That needs no guess about whose memory came back. Until then core has it as quarantined.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>

#include "base/mutex.h"
#include "service/core/effects.h"
#include "service/core/events.h"
#include "service/memory/backend.h"
#include "service/memory/lease_pool.h"

namespace kvsteward::memory {

class Memory {
 public:
  // Takes ObjectReady and ObjectDestroyed, on memory's thread.
  using OnEvent = std::function<void(core::Event)>;

  Memory(std::unique_ptr<Backend> regions, std::unique_ptr<ExtentBackend> extents, uint64_t arena_bytes);
  ~Memory();  // stops; all objects end
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::string export_method() const { return std::string(extents_->name()); }

  // REQUIRES: called once.
  void Start(OnEvent on_event);
  // Drops what waits. Idempotent; once it returns, on_event never runs again.
  void Stop();

  // Answered by ObjectReady and ObjectDestroyed. A lease's objects must be unused when they are destroyed: core asks
  // for that only after JobEnded of all its jobs.
  void Create(core::CreateObject effect);
  // REQUIRES: ObjectReady has come for the object.
  void Destroy(core::DestroyObject effect);
  // The lease ends: creates of it that have not begun are answered by an ObjectReady that failed (kUnavailable).
  void DropCreates(core::LeaseId lease);

  // The lease's pool, or null if it has no objects.
  std::shared_ptr<LeasePool> Find(core::LeaseId lease) const;

 private:
  struct LookForFree {};
  // A create that was dropped is an answer right away.
  using Task = std::variant<core::ObjectReady, core::DestroyObject, core::CreateObject, LookForFree>;
  struct Quarantined {
    core::ObjectId object = 0;
    uint64_t bytes = 0;
  };

  void Run();
  // Waits for what is next; none: to stop.
  std::optional<Task> Next();
  core::ObjectReady DoCreate(const core::CreateObject& effect);
  void DoDestroy(const core::DestroyObject& effect);
  // Answers for what is quarantined as far as it is free.
  void DoLookForFree();

  const std::unique_ptr<Backend> regions_;
  const std::unique_ptr<ExtentBackend> extents_;
  const uint64_t arena_bytes_;
  OnEvent on_event_;  // set before the thread starts
  std::thread thread_;

  // Memory's thread only.
  std::map<core::ObjectId, core::Object> objects_;
  std::deque<Quarantined> quarantined_;
  uint64_t owned_bytes_ = 0;  // of both, as the arena counts them
  std::chrono::steady_clock::time_point next_look_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<core::ObjectReady> dropped_ KVS_GUARDED_BY(mutex_);  // answers that are owed
  std::deque<core::DestroyObject> destroys_ KVS_GUARDED_BY(mutex_);
  std::map<core::LeaseId, std::deque<core::CreateObject>> creates_ KVS_GUARDED_BY(mutex_);  // no empty queues
  core::LeaseId served_ KVS_GUARDED_BY(mutex_) = 0;  // whose create was begun last
  bool stopping_ KVS_GUARDED_BY(mutex_) = false;
  std::map<core::LeaseId, std::shared_ptr<LeasePool>> pools_ KVS_GUARDED_BY(mutex_);
};

}  // namespace kvsteward::memory
