// All memory objects of the daemon. Objects are created and destroyed in the order asked for, on a thread of their own:
// allocating an extent takes many milliseconds and must not stop the event loop. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
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

  Memory(std::unique_ptr<Backend> backend, uint64_t arena_bytes);
  ~Memory();  // stops; all objects end
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::string export_method() const { return std::string(backend_->name()); }

  // REQUIRES: called once.
  void Start(OnEvent on_event);
  // Drops what waits. Idempotent; once it returns, on_event never runs again.
  void Stop();

  // Answered by ObjectReady and ObjectDestroyed. A lease's objects must be unused when they are destroyed: core asks
  // for that only after JobEnded of all its jobs.
  void Create(core::CreateObject effect);
  void Destroy(core::DestroyObject effect);

  // The lease's pool, or null if it has no objects.
  std::shared_ptr<LeasePool> Find(core::LeaseId lease) const;

 private:
  void Run();
  core::ObjectReady DoCreate(const core::CreateObject& effect);
  core::ObjectDestroyed DoDestroy(const core::DestroyObject& effect);

  const std::unique_ptr<Backend> backend_;
  const uint64_t arena_bytes_;
  OnEvent on_event_;  // set before the thread starts
  std::thread thread_;
  std::map<core::ObjectId, core::Object> objects_;  // memory's thread only

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<std::variant<core::CreateObject, core::DestroyObject>> waiting_ KVS_GUARDED_BY(mutex_);
  bool stopping_ KVS_GUARDED_BY(mutex_) = false;
  std::map<core::LeaseId, std::shared_ptr<LeasePool>> pools_ KVS_GUARDED_BY(mutex_);
};

}  // namespace kvsteward::memory
