#include "service/memory/memory.h"

#include <utility>

#include "service/memory/outcome.h"

namespace kvsteward::memory {

Memory::Memory(std::unique_ptr<Backend> backend, uint64_t arena_bytes)
    : backend_(std::move(backend)), arena_bytes_(arena_bytes) {}

Memory::~Memory() { Stop(); }

void Memory::Start(OnEvent on_event) {
  on_event_ = std::move(on_event);
  thread_ = std::thread([this] { Run(); });
}

void Memory::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void Memory::Create(core::CreateObject effect) {
  {
    MutexLock lock(mutex_);
    waiting_.emplace_back(std::move(effect));
  }
  changed_.NotifyOne();
}

void Memory::Destroy(core::DestroyObject effect) {
  {
    MutexLock lock(mutex_);
    waiting_.emplace_back(effect);
  }
  changed_.NotifyOne();
}

std::shared_ptr<LeasePool> Memory::Find(core::LeaseId lease) const {
  MutexLock lock(mutex_);
  const auto found = pools_.find(lease);
  return found == pools_.end() ? nullptr : found->second;
}

void Memory::Run() {
  while (true) {
    std::variant<core::CreateObject, core::DestroyObject> next;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stopping_) changed_.Wait(mutex_);
      if (stopping_) return;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (const auto* create = std::get_if<core::CreateObject>(&next)) {
      on_event_(DoCreate(*create));
    } else {
      on_event_(DoDestroy(std::get<core::DestroyObject>(next)));
    }
  }
}

core::ObjectReady Memory::DoCreate(const core::CreateObject& effect) {
  std::shared_ptr<LeasePool> pool = Find(effect.lease);
  if (pool == nullptr) pool = std::make_shared<LeasePool>(effect.lease, effect.spec, arena_bytes_);
  const absl::Status status = pool->Add(*backend_, effect.object);
  if (status.ok()) {
    objects_[effect.object.id] = effect.object;
    MutexLock lock(mutex_);
    pools_[effect.lease] = std::move(pool);
  }
  return {.object = effect.object.id, .outcome = ToOutcome(status)};
}

core::ObjectDestroyed Memory::DoDestroy(const core::DestroyObject& effect) {
  const auto found = objects_.find(effect.object);
  if (found != objects_.end()) {
    std::shared_ptr<LeasePool> pool = Find(effect.lease);
    pool->Remove(found->second.kind, found->second.index);
    objects_.erase(found);
    if (pool->empty()) {
      MutexLock lock(mutex_);
      pools_.erase(effect.lease);
    }
  }
  return {.object = effect.object};
}

}  // namespace kvsteward::memory
