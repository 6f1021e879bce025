#include "service/steward/steward.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/mutex.h"
#include "kvsteward/engine/plan.h"
#include "service/device/device.h"
#include "service/device/evict_spec.h"
#include "service/memory/memory.h"
#include "service/memory/table_writer.h"
#include "service/steward/call_registry.h"

namespace kvsteward::steward {
namespace {

#ifdef NDEBUG
constexpr bool kAlwaysCheck = false;
#else
constexpr bool kAlwaysCheck = true;
#endif

// The daemon's own books are wrong: going on could give one tenant's memory to another. Or the device is lost, and with
// it what the books speak of.
void DieUnlessOk(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "kvsteward: a promise cannot be kept: %s\n", status.ToString().c_str());
  std::abort();
}

// Whether the worker's pattern is where the lease's statistics region should show it; and, if the lease has an extent
// already, at that one's beginning: the worker's driver and ours mean the same memory.
bool SelfTestPasses(const memory::LeasePool* pool) {
  if (pool == nullptr) return false;
  core::Secret wanted = pool->spec().ticket;
  for (uint8_t& byte : wanted) byte ^= 0x5a;
  const std::span<const std::byte> statistics = pool->Bytes(core::ObjectKind::kStatistics, 0);
  if (statistics.size() < KVS_SELF_TEST_OFFSET + wanted.size()) return false;
  core::Secret found{};
  std::memcpy(found.data(), statistics.data() + KVS_SELF_TEST_OFFSET, found.size());
  if (found != wanted) return false;
  if (pool->Bytes(core::ObjectKind::kExtent, 0).empty()) return true;
  return pool->LoadBlocks(0, std::as_writable_bytes(std::span(found))).ok() && found == wanted;
}

int32_t BudgetTokens(const core::LeaseSpec& lease, const core::EvictSpec& spec, int32_t seen) {
  return static_cast<int32_t>(engine::BudgetTokens(spec.budget, lease.geometry, seen).value_or(0));
}

}  // namespace

struct Steward::Impl {
  Impl(core::Config config, memory::Memory& memory, device::Device& device)
      : machine(std::move(config), BudgetTokens), store(memory), runner(device) {}

  void Loop();
  std::optional<core::Event> NextEvent();
  void Post(core::Event event);

  // One for every effect.
  void Do(const core::Reply& effect) { calls.Reply(effect.call, effect.outcome, effect.body); }
  void Do(const core::Notify& effect) { calls.Notify(effect.call, effect.kind); }
  void Do(core::CreateObject&& effect) { store.Create(std::move(effect)); }
  void Do(const core::ExportObject& effect);
  void Do(core::DestroyObject&& effect) { store.Destroy(effect); }
  void Do(const core::DropCreates& effect) { store.DropCreates(effect.lease); }
  void Do(const core::RunSelfTest& effect) {
    Post(core::SelfTested{.lease = effect.lease, .passed = SelfTestPasses(store.Find(effect.lease).get())});
  }
  void Do(const core::CloseSocket& effect) { port->Close(effect.socket, effect.reason); }
  void Do(const core::InitTable& effect) {
    DieUnlessOk(memory::InitTable(Tables(effect.lease, effect.table), effect.table, effect.units));
  }
  void Do(const core::AppendRows& effect) {
    DieUnlessOk(memory::AppendRows(Tables(effect.lease, effect.table), effect.table, effect.rows));
  }
  void Do(const core::TrimRows& effect) {
    DieUnlessOk(memory::TrimRows(Tables(effect.lease, effect.table), effect.table, effect.rows));
  }
  void Do(const core::StorePositions& effect) {
    DieUnlessOk(store.Find(effect.lease)->StorePositions(effect.units, *effect.positions));
  }
  void Do(const core::StoreDone& effect);
  void Do(core::RunEvict&& effect) {
    std::shared_ptr<memory::LeasePool> pool = store.Find(effect.lease);
    runner.RunEvict(std::move(effect), std::move(pool));
  }
  void Do(core::CompactUnits&& effect) { runner.CompactUnits(std::move(effect)); }
  void Do(const core::CancelJob& effect) { runner.CancelJob(effect.job); }
  void Do(const core::EndJob& effect) { runner.EndJob(effect.job); }
  void Do(const core::Drained&) {
    if (on_drained) on_drained();
  }

  std::span<std::byte> Tables(core::LeaseId lease, const core::TablePlace& table) const {
    const std::shared_ptr<memory::LeasePool> pool = store.Find(lease);
    return pool == nullptr ? std::span<std::byte>() : pool->Bytes(core::ObjectKind::kTables, table.chunk);
  }

  core::Core machine;  // the loop's
  memory::Memory& store;
  device::Device& runner;
  SocketPort* port = nullptr;
  std::function<void()> on_drained;
  CallRegistry calls;
  std::thread thread;

  Mutex mutex;
  CondVar posted;
  std::deque<core::Event> mailbox KVS_GUARDED_BY(mutex);
  bool stopping KVS_GUARDED_BY(mutex) = false;
};

void Steward::Impl::Post(core::Event event) {
  {
    MutexLock lock(mutex);
    mailbox.push_back(std::move(event));
  }
  posted.NotifyOne();
}

std::optional<core::Event> Steward::Impl::NextEvent() {
  MutexLock lock(mutex);
  while (mailbox.empty() && !stopping) posted.Wait(mutex);
  if (stopping) return std::nullopt;
  core::Event event = std::move(mailbox.front());
  mailbox.pop_front();
  return event;
}

void Steward::Impl::Do(const core::ExportObject& effect) {
  const std::shared_ptr<memory::LeasePool> pool = store.Find(effect.lease);
  const kvs_fd_message message{.magic = KVS_SHM_MAGIC,
                               .version = KVS_SHM_VERSION,
                               .type = KVS_FD_OBJECT,
                               .kind = memory::ShmKind(effect.object.kind),
                               .index = effect.object.index,
                               .reserved = 0,
                               .bytes = effect.object.bytes,
                               .ticket = {}};
  port->Send(effect.socket, message, pool->Descriptor(effect.object.kind, effect.object.index));
}

void Steward::Impl::Do(const core::StoreDone& effect) {
  const std::shared_ptr<memory::LeasePool> pool = store.Find(effect.lease);
  if (pool == nullptr) return;
  const std::span<std::byte> statistics = pool->Bytes(core::ObjectKind::kStatistics, 0);
  if (statistics.size() < KVS_WINDOWS_OFFSET) return;
  __atomic_store_n(kvs_done_word(statistics.data(), effect.done.slot), effect.done.value, __ATOMIC_RELEASE);
}

void Steward::Impl::Loop() {
  const char* const check = std::getenv("KVSTEWARD_CHECK");
  const bool checking = kAlwaysCheck || (check != nullptr && std::strcmp(check, "1") == 0);
  while (std::optional<core::Event> event = NextEvent()) {
    const auto now = std::chrono::time_point_cast<core::Duration>(std::chrono::steady_clock::now());
    for (core::Effect& effect : machine.Apply(*event, now)) {
      std::visit([this](auto&& each) { Do(std::forward<decltype(each)>(each)); }, std::move(effect));
    }
    if (checking) DieUnlessOk(machine.Check());
  }
  calls.ReplyToAll({.code = core::Code::kUnavailable, .message = "the sidecar has stopped", .shortage = {}});
}

Steward::Steward(core::Config config, memory::Memory& memory, device::Device& device)
    : impl_(std::make_unique<Impl>(std::move(config), memory, device)) {}

Steward::~Steward() { Stop(); }

void Steward::set_socket_port(SocketPort* port) { impl_->port = port; }

void Steward::set_on_drained(std::function<void()> on_drained) { impl_->on_drained = std::move(on_drained); }

void Steward::Start() {
  const auto post = [impl = impl_.get()](core::Event event) { impl->Post(std::move(event)); };
  impl_->store.Start(post);
  impl_->runner.Start(post);
  impl_->thread = std::thread([impl = impl_.get()] { impl->Loop(); });
}

void Steward::Stop() {
  {
    MutexLock lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->posted.NotifyAll();
  if (impl_->thread.joinable()) impl_->thread.join();
  // Behind the loop, which is the one that gives them work: nothing posts here any more.
  impl_->runner.Stop();
  impl_->store.Stop();
}

core::CallId Steward::NewCall(OnReply on_reply, OnNotice on_notice) {
  return impl_->calls.Add(std::move(on_reply), std::move(on_notice));
}

void Steward::CancelCall(core::CallId call) {
  if (impl_->calls.Cancel(call)) impl_->Post(core::CallCancelled{.call = call});
}

void Steward::Post(core::Event event) { impl_->Post(std::move(event)); }

}  // namespace kvsteward::steward
