// A worker without gRPC and sockets: it posts the events that rpc/ would, and sees memory only through the descriptors
// that it is sent. One thread drives it.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "kvsteward/shm.h"
#include "service/device/evict_spec.h"
#include "service/memory/lease_spec.h"
#include "service/steward/steward.h"
#include "tests/memory/inbox.h"

namespace kvsteward::steward {

// Keeps what was sent to each socket.
class FakeSocketPort : public SocketPort {
 public:
  struct Sent {
    kvs_fd_message message;
    UniqueFd fd;
  };
  void Send(core::SocketId socket, const kvs_fd_message& message, int fd) override {
    MutexLock lock(mutex_);
    sent_[socket].push_back({message, UniqueFd(dup(fd))});
  }
  void Close(core::SocketId socket, const std::string& reason) override {
    MutexLock lock(mutex_);
    closed_[socket] = reason;
  }
  std::vector<Sent> Take(core::SocketId socket) {
    MutexLock lock(mutex_);
    return std::exchange(sent_[socket], {});
  }
  std::string ClosedBecause(core::SocketId socket) {
    MutexLock lock(mutex_);
    return closed_[socket];
  }

 private:
  Mutex mutex_;
  std::map<core::SocketId, std::vector<Sent>> sent_ KVS_GUARDED_BY(mutex_);
  std::map<core::SocketId, std::string> closed_ KVS_GUARDED_BY(mutex_);
};

struct Answer {
  core::Outcome outcome;
  core::ReplyBody body;
};

// Posts the event with a new call and waits for the reply.
template <class Asked>
Answer Ask(Steward& steward, Asked asked) {
  auto inbox = std::make_shared<Inbox<Answer>>();
  asked.call = steward.NewCall([inbox](const core::Outcome& outcome, const core::ReplyBody& body) {
    inbox->Put({outcome, body});
  });
  steward.Post(asked);
  return inbox->Wait(1)[0];
}
// As Ask; fails the test if it is refused.
template <class Reply, class Asked>
Reply MustAsk(Steward& steward, Asked asked) {
  const Answer answer = Ask(steward, std::move(asked));
  EXPECT_TRUE(answer.outcome.ok()) << answer.outcome.message;
  const auto* reply = std::get_if<Reply>(&answer.body);
  return reply == nullptr ? Reply{} : *reply;
}

class Worker {
 public:
  static constexpr engine::Geometry kGeometry{
      .layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16, .dtype = engine::DType::kF32};
  static constexpr uint32_t kUnits = 4;
  static constexpr uint32_t kWindowRows = 16;
  static constexpr uint64_t kSlotBytes = uint64_t{2} * 4 * kWindowRows * 16 * 4;
  static constexpr uint64_t kInputBytes = 8192;

  Worker(Steward& steward, FakeSocketPort& port, core::SocketId socket, const std::string& tenant)
      : steward_(steward), port_(port), socket_(socket) {
    ticket_.fill(static_cast<uint8_t>(socket));
    steward_.Post(core::SocketOpened{.socket = socket, .tenant = tenant, .ticket = ticket_, .death_observable = true});
  }
  ~Worker() {
    if (blocks_ != nullptr) munmap(blocks_, kMostBytes);
  }

  void Attach() {
    core::AttachAsked asked;
    asked.ticket = ticket_;
    asked.new_key.fill(static_cast<uint8_t>(100 + socket_));
    asked.shape = {.units = kUnits, .block_bytes = kGeometry.block_bytes()};
    asked.statistics_bytes = KVS_WINDOWS_OFFSET + 2 * kSlotBytes + kInputBytes;
    asked.plan_bytes = 1 << 16;
    asked.spec = std::make_shared<core::LeaseSpec>(core::LeaseSpec{.geometry = kGeometry,
                                                                   .window_rows = kWindowRows,
                                                                   .window_slots = 2,
                                                                   .window_slot_bytes = kSlotBytes,
                                                                   .input_bytes = kInputBytes,
                                                                   .ticket = ticket_});
    attached_ = MustAsk<core::AttachReply>(steward_, asked);
    Map();
  }
  void WriteSelfTest() {
    for (size_t i = 0; i < ticket_.size(); ++i) statistics()[KVS_SELF_TEST_OFFSET + i] = std::byte(ticket_[i] ^ 0x5a);
  }
  // Opens Hold. The first notice comes as an empty Answer, the stream's end as its outcome.
  core::CallId Hold() {
    core::HoldOpened asked{.call = 0, .lease = ref()};
    asked.call = steward_.NewCall(
        [held = held_](const core::Outcome& outcome, const core::ReplyBody& body) {
          held->Put({outcome, body});
        },
        [held = held_](core::NoticeKind) { held->Put({}); });
    steward_.Post(asked);
    return asked.call;
  }
  Answer HoldSays() { return held_->Wait(1)[0]; }
  void GoLive() {
    Attach();
    WriteSelfTest();
    Hold();
    ASSERT_TRUE(HoldSays().outcome.ok());
  }

  core::LeaseRef ref() const { return {.key = attached_.key, .epoch = attached_.epoch}; }
  const core::AttachReply& attached() const { return attached_; }

  core::CreateSequenceReply Create(core::SequenceId sequence, std::optional<core::Residents> residents = {}) {
    core::CreateSequenceAsked asked;
    asked.lease = ref();
    asked.sequence = sequence;
    asked.max_tokens = 512;
    asked.residents = std::move(residents);
    const auto reply = MustAsk<core::CreateSequenceReply>(steward_, asked);
    Map();
    tables_[sequence] = reply.table;
    return reply;
  }
  core::ReserveResult Reserve(core::SequenceId sequence, int32_t total, int32_t written) {
    core::ReserveAsked asked{.call = 0, .lease = ref(), .items = {}};
    asked.items.push_back({.sequence = sequence, .total_tokens = total, .written_tokens = written});
    const auto reply = MustAsk<core::ReserveReply>(steward_, asked);
    Map();
    return reply.results.empty() ? core::ReserveResult{} : reply.results[0];
  }
  core::EvictAsked EvictAsked(core::SequenceId sequence, int32_t written, int64_t budget) const {
    auto spec = std::make_shared<core::EvictSpec>();
    spec->budget = {.kind = engine::Budget::Kind::kTokens, .amount = budget};
    spec->window_rows = kWindowRows;
    spec->window_slot = 1;
    core::EvictItem item;
    item.sequence = sequence;
    item.written_tokens = written;
    item.export_plan = true;
    item.spec = spec;
    return {.call = 0, .lease = ref(), .items = {item}};
  }
  core::EvictResult Evict(core::SequenceId sequence, int32_t written, int64_t budget) {
    const auto reply = MustAsk<core::EvictReply>(steward_, EvictAsked(sequence, written, budget));
    if (reply.results.empty()) return {};
    EXPECT_TRUE(reply.results[0].outcome.ok()) << reply.results[0].outcome.message;
    return reply.results[0];
  }
  // Rows [from, to) of a sequence of which `to` tokens are written, with the queries in slot 1.
  core::ObserveAsked ObserveAsked(core::SequenceId sequence, int32_t from, int32_t to, core::PolicyRef policy) const {
    auto spec = std::make_shared<core::EvictSpec>();
    spec->window_rows = to - from;
    spec->window_slot = 1;
    core::ObserveItem item;
    item.sequence = sequence;
    item.written_tokens = to;
    item.policy = std::move(policy);
    item.spec = spec;
    return {.call = 0, .lease = ref(), .items = {item}};
  }
  core::ObserveResult Observe(const core::ObserveAsked& asked) {
    const auto reply = MustAsk<core::ObserveReply>(steward_, asked);
    return reply.results.empty() ? core::ObserveResult{} : reply.results[0];
  }
  void Release(core::SequenceId sequence) {
    MustAsk<core::ReleaseSequenceReply>(
        steward_, core::ReleaseSequenceAsked{
                      .call = 0, .lease = ref(), .sequence = sequence, .request_id = 0, .request_hash = 0});
  }
  void Die() {
    steward_.Post(core::SocketClosed{.socket = socket_});
    steward_.Post(core::ProcessGone{.socket = socket_});
  }

  // ---- Through the shared memory ----
  std::byte* statistics() const { return regions_.at({KVS_STATISTICS, 0}).data(); }
  float* queries(uint32_t slot) const {
    return reinterpret_cast<float*>(statistics() + KVS_WINDOWS_OFFSET + slot * kSlotBytes);
  }
  std::byte* inputs() const { return statistics() + KVS_WINDOWS_OFFSET + 2 * kSlotBytes; }
  const kvs_plan* plan(const core::EvictResult& result) const {
    return reinterpret_cast<const kvs_plan*>(regions_.at({KVS_PLANS, 0}).data() + result.plan.offset);
  }
  const kvs_row* row(core::SequenceId sequence, uint32_t unit) const {
    const core::TablePlace& place = tables_.at(sequence);
    const std::byte* const chunk = regions_.at({KVS_TABLES, place.chunk}).data();
    return kvs_current_row(reinterpret_cast<const kvs_sequence_table*>(chunk + place.offset), unit);
  }
  uint32_t blocks() const { return extents_ * static_cast<uint32_t>(attached_.blocks_per_extent); }
  float* block(uint32_t index) const { return reinterpret_cast<float*>(blocks_ + index * kGeometry.block_bytes()); }
  // K of the resident; V lies 256 elements behind.
  float* token(core::SequenceId sequence, uint32_t unit, uint32_t resident) const {
    return block(row(sequence, unit)->block[resident / 16]) + resident % 16 * 16;
  }

 private:
  static constexpr size_t kMostBytes = size_t{1} << 30;

  // Maps what has come since.
  void Map() {
    if (blocks_ == nullptr) {
      void* const range = mmap(nullptr, kMostBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      blocks_ = static_cast<std::byte*>(range);
    }
    for (const FakeSocketPort::Sent& sent : port_.Take(socket_)) {
      const kvs_fd_message& message = sent.message;
      ASSERT_EQ(message.magic, KVS_SHM_MAGIC);
      ASSERT_EQ(message.type, uint32_t{KVS_FD_OBJECT});
      const bool writable = message.kind == KVS_EXTENT || message.kind == KVS_STATISTICS;
      const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
      if (message.kind == KVS_EXTENT) {
        ASSERT_EQ(message.index, extents_++);
        ASSERT_NE(mmap(blocks_ + message.index * message.bytes, message.bytes, protection, MAP_SHARED | MAP_FIXED,
                       sent.fd.get(), 0),
                  MAP_FAILED);
      } else {
        void* const data = mmap(nullptr, message.bytes, protection, MAP_SHARED, sent.fd.get(), 0);
        ASSERT_NE(data, MAP_FAILED);
        regions_[{message.kind, message.index}] = Mapping(data, message.bytes);
      }
    }
  }

  Steward& steward_;
  FakeSocketPort& port_;
  core::SocketId socket_;
  core::Secret ticket_{};
  core::AttachReply attached_;
  std::shared_ptr<Inbox<Answer>> held_ = std::make_shared<Inbox<Answer>>();
  std::map<core::SequenceId, core::TablePlace> tables_;
  std::map<std::pair<uint32_t, uint32_t>, Mapping> regions_;  // by kind and index
  std::byte* blocks_ = nullptr;
  uint32_t extents_ = 0;
};

}  // namespace kvsteward::steward
