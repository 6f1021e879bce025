#include "service/memory/memory.h"

#include <utility>

#include "service/memory/outcome.h"

namespace kvsteward::memory {
namespace {

// REQUIRES: the queue is not empty.
template <class Item>
Item Pop(std::deque<Item>& queue) {
  Item item = std::move(queue.front());
  queue.pop_front();
  return item;
}

}  // namespace

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
    creates_[effect.lease].push_back(std::move(effect));
  }
  changed_.NotifyOne();
}

void Memory::Destroy(core::DestroyObject effect) {
  {
    MutexLock lock(mutex_);
    destroys_.push_back(effect);
  }
  changed_.NotifyOne();
}

void Memory::DropCreates(core::LeaseId lease) {
  {
    MutexLock lock(mutex_);
    const auto found = creates_.find(lease);
    if (found == creates_.end()) return;
    for (const core::CreateObject& create : found->second) {
      dropped_.push_back({.object = create.object.id,
                          .outcome = {.code = core::Code::kUnavailable, .message = "the lease ended", .shortage = {}}});
    }
    creates_.erase(found);
  }
  changed_.NotifyOne();
}

std::shared_ptr<LeasePool> Memory::Find(core::LeaseId lease) const {
  MutexLock lock(mutex_);
  const auto found = pools_.find(lease);
  return found == pools_.end() ? nullptr : found->second;
}

std::optional<Memory::Task> Memory::Next() {
  MutexLock lock(mutex_);
  while (dropped_.empty() && destroys_.empty() && creates_.empty() && !stopping_) changed_.Wait(mutex_);
  if (stopping_) return std::nullopt;
  if (!dropped_.empty()) return Pop(dropped_);
  if (!destroys_.empty()) return Pop(destroys_);
  auto next = creates_.upper_bound(served_);
  if (next == creates_.end()) next = creates_.begin();
  served_ = next->first;
  core::CreateObject create = Pop(next->second);
  if (next->second.empty()) creates_.erase(next);
  return create;
}

void Memory::Run() {
  while (const std::optional<Task> next = Next()) {
    if (const auto* create = std::get_if<core::CreateObject>(&*next)) {
      on_event_(DoCreate(*create));
    } else if (const auto* destroy = std::get_if<core::DestroyObject>(&*next)) {
      on_event_(DoDestroy(*destroy));
    } else {
      on_event_(std::get<core::ObjectReady>(*next));
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
