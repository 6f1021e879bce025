#include "service/memory/memory.h"

#include <algorithm>
#include <utility>

#include "service/memory/outcome.h"

namespace kvsteward::memory {
namespace {

constexpr std::chrono::seconds kBetweenLooks{1};

// What the arena counts for an object.
uint64_t CountedBytes(const core::Object& object) { return object.bytes + object.private_bytes; }

// REQUIRES: the queue is not empty.
template <class Item>
Item Pop(std::deque<Item>& queue) {
  Item item = std::move(queue.front());
  queue.pop_front();
  return item;
}

}  // namespace

Memory::Memory(std::unique_ptr<Backend> regions, std::unique_ptr<ExtentBackend> extents, uint64_t arena_bytes)
    : regions_(std::move(regions)), extents_(std::move(extents)), arena_bytes_(arena_bytes) {}

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
  const auto nothing_to_do = [this]() KVS_REQUIRES(mutex_) {
    return dropped_.empty() && destroys_.empty() && creates_.empty() && !stopping_;
  };
  if (quarantined_.empty()) {
    while (nothing_to_do()) changed_.Wait(mutex_);
  } else {
    while (nothing_to_do() && std::chrono::steady_clock::now() < next_look_) changed_.WaitUntil(mutex_, next_look_);
  }
  if (stopping_) return std::nullopt;
  if (!quarantined_.empty() && std::chrono::steady_clock::now() >= next_look_) return LookForFree{};
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
      DoDestroy(*destroy);
    } else if (const auto* dropped = std::get_if<core::ObjectReady>(&*next)) {
      on_event_(*dropped);
    } else {
      DoLookForFree();
    }
  }
}

core::ObjectReady Memory::DoCreate(const core::CreateObject& effect) {
  std::shared_ptr<LeasePool> pool = Find(effect.lease);
  if (pool == nullptr) pool = std::make_shared<LeasePool>(effect.lease, effect.spec, arena_bytes_);
  const absl::Status status = effect.object.kind == core::ObjectKind::kExtent
                                  ? pool->AddExtent(*extents_, effect.object)
                                  : pool->AddRegion(*regions_, effect.object);
  if (status.ok()) {
    objects_[effect.object.id] = effect.object;
    owned_bytes_ += CountedBytes(effect.object);
    MutexLock lock(mutex_);
    pools_[effect.lease] = std::move(pool);
  }
  return {.object = effect.object.id, .outcome = ToOutcome(status)};
}

void Memory::DoDestroy(const core::DestroyObject& effect) {
  const auto found = objects_.find(effect.object);
  if (found == objects_.end()) return on_event_(core::ObjectDestroyed{.object = effect.object});
  const core::Object object = found->second;
  objects_.erase(found);
  const std::shared_ptr<LeasePool> pool = Find(effect.lease);
  pool->Remove(object.kind, object.index);
  if (pool->empty()) {
    MutexLock lock(mutex_);
    pools_.erase(effect.lease);
  }
  if (object.kind == core::ObjectKind::kExtent) {
    quarantined_.push_back({.object = effect.object, .bytes = CountedBytes(object)});
    DoLookForFree();
  } else {
    owned_bytes_ -= CountedBytes(object);
    on_event_(core::ObjectDestroyed{.object = effect.object});
  }
}

void Memory::DoLookForFree() {
  const absl::StatusOr<uint64_t> free = extents_->FreeBytes();
  std::erase_if(quarantined_, [&](const Quarantined& each) {
    const uint64_t in_no_object = arena_bytes_ - std::min(arena_bytes_, owned_bytes_);
    if (!free.ok() || *free < in_no_object || *free - in_no_object < each.bytes) return false;
    owned_bytes_ -= each.bytes;
    on_event_(core::ObjectDestroyed{.object = each.object});
    return true;
  });
  next_look_ = std::chrono::steady_clock::now() + kBetweenLooks;
}

}  // namespace kvsteward::memory
