#include "tests/core/world.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace kvsteward::core {

Secret SecretOf(uint64_t number) {
  Secret secret{};
  for (size_t i = 0; i < sizeof(number); ++i) secret[i] = static_cast<uint8_t>(number >> (8 * i));
  return secret;
}

PolicyRef PolicyOf(int number) { return std::make_shared<const engine::Policy>(engine::Policy{number}); }

std::shared_ptr<const EvictSpec> BudgetOf(int32_t tokens) {
  return std::make_shared<const EvictSpec>(EvictSpec{tokens});
}

World::World(Config config)
    : core(config, [](const LeaseSpec&, const EvictSpec& spec, int32_t) { return spec.budget_tokens; }),
      model(config) {}

std::vector<Effect> World::Post(Event event) {
  std::visit(
      [this](const auto& e) {
        if constexpr (std::is_same_v<std::decay_t<decltype(e)>, CallCancelled>) {
          if (waiting.erase(e.call) > 0) cancelled.insert(e.call);
        } else if constexpr (requires { e.call; }) {
          waiting.insert(e.call);
          if constexpr (std::is_same_v<std::decay_t<decltype(e)>, HoldOpened>) holds.insert(e.call);
        }
      },
      event);
  model.Before(event);
  now += Duration{1};
  std::vector<Effect> effects = core.Apply(event, now);
  model.After(event, effects);
  for (const Effect& effect : effects) Note(effect);
  const absl::Status status = core.Check();
  EXPECT_TRUE(status.ok()) << status << " after event kind " << event.index();
  EXPECT_TRUE(core.ledger().exact());
  return effects;
}

void World::Note(const Effect& effect) {
  if (const auto* reply = std::get_if<Reply>(&effect)) {
    EXPECT_FALSE(cancelled.contains(reply->call)) << "a cancelled call was answered";
    EXPECT_EQ(waiting.erase(reply->call), 1u) << "call " << reply->call << " was answered twice or never asked";
    EXPECT_EQ(reply->outcome.ok(), reply->outcome.message.empty());
    replies_[reply->call] = *reply;
  } else if (const auto* notice = std::get_if<Notify>(&effect)) {
    EXPECT_TRUE(waiting.contains(notice->call)) << "a notice on a stream that ended";
    notices.push_back(*notice);
  } else if (const auto* close = std::get_if<CloseSocket>(&effect)) {
    closed.push_back(*close);
  } else if (const auto* object = std::get_if<ExportObject>(&effect)) {
    exported.push_back(*object);
  } else if (const auto* done = std::get_if<StoreDone>(&effect)) {
    stored.push_back(*done);
  } else if (std::holds_alternative<Drained>(effect)) {
    EXPECT_FALSE(drained);
    drained = true;
  } else if (std::holds_alternative<CreateObject>(effect) || std::holds_alternative<DestroyObject>(effect) ||
             std::holds_alternative<RunSelfTest>(effect) || std::holds_alternative<RunEvict>(effect) ||
             std::holds_alternative<CompactUnits>(effect) || std::holds_alternative<EndJob>(effect)) {
    open_.push_back(effect);
  }
}

const Reply* World::ReplyTo(CallId call) const {
  const auto found = replies_.find(call);
  return found == replies_.end() ? nullptr : &found->second;
}

void World::AnswerOpen(size_t index, Event event) {
  open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(index));
  Post(std::move(event));
}

Event World::Good(const Effect& effect) {
  if (const auto* create = std::get_if<CreateObject>(&effect)) return ObjectReady{create->object.id, {}};
  if (const auto* destroy = std::get_if<DestroyObject>(&effect)) return ObjectDestroyed{destroy->object};
  if (const auto* test = std::get_if<RunSelfTest>(&effect)) return SelfTested{test->lease, true};
  if (const auto* compact = std::get_if<CompactUnits>(&effect)) {
    return UnitsCompacted{compact->job, static_cast<uint32_t>(compact->units.size()), 1};
  }
  if (const auto* end = std::get_if<EndJob>(&effect)) return JobEnded{end->job};
  const auto& run = std::get<RunEvict>(effect);
  EvictPlanned planned;
  planned.job = run.job;
  planned.no_op = !run.observe;
  if (run.observe) planned.observed_tokens = run.written_tokens;
  return planned;
}

void World::FinishMemory() {
  while (!Open<CreateObject>().empty() || !Open<DestroyObject>().empty()) {
    Finish<CreateObject>();
    Finish<DestroyObject>();
  }
}

void World::FinishAll() {
  while (!open_.empty()) AnswerOpen(0, Good(open_[0]));
}

SocketId World::Connect(const std::string& tenant, bool death_observable) {
  const SocketId socket = next_socket_++;
  Post(SocketOpened{socket, tenant, SecretOf(1000 + socket), death_observable});
  return socket;
}

AttachAsked World::AttachOf(SocketId socket, Shape shape, uint64_t plan_bytes) {
  AttachAsked asked;
  asked.ticket = SecretOf(1000 + socket);
  asked.new_key = SecretOf(1'000'000 + socket);
  asked.shape = shape;
  asked.statistics_bytes = 1024;
  asked.plan_bytes = plan_bytes;
  asked.geometry = "units " + std::to_string(shape.units);
  asked.spec = std::make_shared<const LeaseSpec>();
  return asked;
}

World::Worker World::Attached(const std::string& tenant, Shape shape, bool death_observable) {
  Worker worker;
  worker.socket = Connect(tenant, death_observable);
  worker.attached = Must<AttachReply>(AttachOf(worker.socket, shape));
  worker.lease = worker.attached.lease;
  worker.ref = {worker.attached.key, worker.attached.epoch};
  return worker;
}

World::Worker World::Live(const std::string& tenant, Shape shape, bool death_observable) {
  Worker worker = Attached(tenant, shape, death_observable);
  Ask(HoldOpened{0, worker.ref});
  worker.hold = last_call_;
  Finish<RunSelfTest>();
  return worker;
}

StatusReply World::Status() { return Must<StatusReply>(StatusAsked{}); }

Config SmallConfig() {
  Config config;
  config.arena_bytes = 1 << 20;
  config.extent_bytes = kExtentBytes;
  config.page_bytes = 1024;
  config.table_chunk_bytes = 4096;
  config.first_epoch = 10;
  config.tenants = {{"b", 1 << 20, PolicyOf(2)}, {"a", 1 << 20, PolicyOf(1)}};
  return config;
}

CreateSequenceAsked CreateOf(const World::Worker& worker, SequenceId id, int32_t max_tokens, uint64_t hash) {
  CreateSequenceAsked asked;
  asked.lease = worker.ref;
  asked.sequence = id;
  asked.max_tokens = max_tokens;
  asked.request_hash = hash;
  return asked;
}

CreateSequenceAsked ImportOf(const World::Worker& worker, SequenceId id, int32_t max_tokens, int32_t seen,
                             std::vector<int32_t> lengths, std::vector<int32_t> positions) {
  CreateSequenceAsked asked = CreateOf(worker, id, max_tokens);
  asked.residents = {seen, std::move(lengths), std::make_shared<std::vector<int32_t>>(std::move(positions))};
  return asked;
}

ReserveAsked ReserveOf(const World::Worker& worker, std::vector<ReserveItem> items) {
  return {0, worker.ref, std::move(items)};
}

ReserveAsked ReserveOf(const World::Worker& worker, SequenceId id, int32_t total, int32_t written) {
  return ReserveOf(worker, std::vector<ReserveItem>{{id, 0, 0, total, written}});
}

TruncateAsked TruncateOf(const World::Worker& worker, SequenceId id, int32_t tokens, uint64_t request_id) {
  return {0, worker.ref, id, request_id, static_cast<uint64_t>(tokens), tokens};
}

EvictAsked EvictOf(const World::Worker& worker, SequenceId id, int32_t written) {
  EvictItem item;
  item.sequence = id;
  item.written_tokens = written;
  return {0, worker.ref, {item}};
}

ObserveAsked ObserveOf(const World::Worker& worker, SequenceId id, int32_t written, uint64_t request_id) {
  return {0, worker.ref, {{id, request_id, static_cast<uint64_t>(written), written, nullptr, nullptr}}};
}

ReleaseSequenceAsked ReleaseOf(const World::Worker& worker, SequenceId id, uint64_t request_id) {
  return {0, worker.ref, id, request_id, id};
}

EvictPlanned PlanOf(JobId job, std::vector<int32_t> kept, std::optional<uint8_t> norms) {
  EvictPlanned planned;
  planned.job = job;
  planned.norms = norms;
  planned.kept = std::move(kept);
  return planned;
}

}  // namespace kvsteward::core
