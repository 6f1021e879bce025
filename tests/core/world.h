// A second steward for tests: carries core's effects out against a memory and a device that do what the test says,
// checks core's books after every event and keeps an account of its own (model.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "service/core/core.h"
#include "tests/core/model.h"

namespace kvsteward {

// Core hands these on and never looks into them: here they are what the tests need.
namespace engine {
struct Policy {
  int number = 0;
};
}  // namespace engine
namespace core {
struct LeaseSpec {};
struct EvictSpec {
  int32_t budget_tokens = 0;
};
}  // namespace core

}  // namespace kvsteward

namespace kvsteward::core {

PolicyRef PolicyOf(int number);
std::shared_ptr<const EvictSpec> BudgetOf(int32_t tokens);

Secret SecretOf(uint64_t number);

class World {
 public:
  explicit World(Config config);

  // Tells core; returns its effects.
  std::vector<Effect> Post(Event event);
  CallId NewCall() { return next_call_++; }
  // Posts a call and returns its reply, nullptr if it waits.
  template <typename Asked>
  const Reply* Ask(Asked asked) {
    if (asked.call == 0) asked.call = NewCall();
    last_call_ = asked.call;
    Post(asked);
    return ReplyTo(last_call_);
  }
  CallId last_call() const { return last_call_; }
  const Reply* ReplyTo(CallId call) const;
  // Posts a call that must be answered OK, memory included, and returns its body.
  template <typename Body, typename Asked>
  Body Must(Asked asked);

  // ---- What core waits for. Every such effect stays open until it is answered.
  const std::vector<Effect>& open() const { return open_; }
  template <typename E>
  std::vector<E> Open() const {
    std::vector<E> found;
    for (const Effect& effect : open_) {
      if (const E* e = std::get_if<E>(&effect)) found.push_back(*e);
    }
    return found;
  }
  // Answers open effect `index` with the event, which must be its answer.
  void AnswerOpen(size_t index, Event event);
  // Answers everything of this kind that is open now as a machine with room and a cancel-blind device would.
  template <typename E>
  void Finish() {
    for (size_t i = 0; i < open_.size();) {
      if (std::holds_alternative<E>(open_[i])) {
        AnswerOpen(i, Good(open_[i]));
        i = 0;
      } else {
        ++i;
      }
    }
  }
  void FinishMemory();
  void FinishAll();
  static Event Good(const Effect& effect);  // RunEvict: a no-op, or all rows are observed

  // ---- What core said
  std::vector<Notify> notices;
  std::vector<CloseSocket> closed;
  std::vector<ExportObject> exported;
  std::vector<StoreDone> stored;
  bool drained = false;

  // ---- Shorthand
  struct Worker {
    SocketId socket = 0;
    LeaseId lease = 0;
    LeaseRef ref;
    CallId hold = 0;
    AttachReply attached;
  };
  SocketId Connect(const std::string& tenant, bool death_observable = true);
  AttachAsked AttachOf(SocketId socket, Shape shape, uint64_t plan_bytes = 4096);
  Worker Attached(const std::string& tenant, Shape shape, bool death_observable = true);
  Worker Live(const std::string& tenant, Shape shape, bool death_observable = true);
  StatusReply Status();

  Core core;
  Model model;
  std::set<CallId> waiting;    // asked and not answered
  std::set<CallId> holds;      // of all calls, those of Hold streams
  std::set<CallId> cancelled;  // must never be answered
  Time now{};

 private:
  void Note(const Effect& effect);

  CallId next_call_ = 1;
  CallId last_call_ = 0;
  SocketId next_socket_ = 1;
  std::vector<Effect> open_;
  std::map<CallId, Reply> replies_;
};

template <typename Body, typename Asked>
Body World::Must(Asked asked) {
  Ask(std::move(asked));
  const CallId call = last_call_;
  FinishMemory();
  const Reply* reply = ReplyTo(call);
  if (reply == nullptr || !std::holds_alternative<Body>(reply->body)) {
    throw std::runtime_error(reply == nullptr ? "the call waits" : reply->outcome.message);
  }
  return std::get<Body>(reply->body);
}

// Config, shape and worker that most tests use: extents of 16 blocks (4 KiB and 3 KiB private), 2 units, pages of 1
// KiB.
Config SmallConfig();
inline constexpr Shape kShape{2, 256};
inline constexpr uint64_t kExtentBytes = 4096;
inline constexpr uint64_t kPrivateBytes = 3072;

// ---- Calls
CreateSequenceAsked CreateOf(const World::Worker& worker, SequenceId id, int32_t max_tokens, uint64_t hash = 1);
CreateSequenceAsked ImportOf(const World::Worker& worker, SequenceId id, int32_t max_tokens, int32_t seen,
                             std::vector<int32_t> lengths, std::vector<int32_t> positions);
ReserveAsked ReserveOf(const World::Worker& worker, std::vector<ReserveItem> items);
ReserveAsked ReserveOf(const World::Worker& worker, SequenceId id, int32_t total, int32_t written = 0);
TruncateAsked TruncateOf(const World::Worker& worker, SequenceId id, int32_t tokens, uint64_t request_id = 0);
EvictAsked EvictOf(const World::Worker& worker, SequenceId id, int32_t written);
ObserveAsked ObserveOf(const World::Worker& worker, SequenceId id, int32_t written, uint64_t request_id = 0);
ReleaseSequenceAsked ReleaseOf(const World::Worker& worker, SequenceId id, uint64_t request_id = 0);
EvictPlanned PlanOf(JobId job, std::vector<int32_t> kept, std::optional<uint8_t> norms = 1);

}  // namespace kvsteward::core
