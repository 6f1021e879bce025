// Random worlds: thousands of events in an order no one planned. Workers that err, repeat themselves, vanish and lie;
// a machine that runs out of memory; a device that refuses, is late and stops half way. After every event core's books
// are recounted and compared with an independent account (world.h, model.h); at the end everything must have come back.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <random>

#include "tests/core/world.h"

namespace kvsteward::core {
namespace {

// What a worker believes of one of its sequences.
struct Belief {
  int32_t max_tokens = 0;
  int32_t written = 0;
  int32_t reserved = 0;
  uint64_t version = 1;
};

struct Client {
  World::Worker worker;
  AttachAsked attach;
  std::map<SequenceId, Belief> sequences;
};

class Chaos {
 public:
  explicit Chaos(uint64_t seed) : rng_(seed), world_(RandomConfig()) {}

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      if (i == steps - steps / 8 && Chance(30)) world_.Post(DrainAsked{});
      Step();
      Learn();
    }
    Finish();
  }

 private:
  uint64_t Below(uint64_t bound) { return rng_() % bound; }
  bool Chance(uint64_t percent) { return Below(100) < percent; }
  int32_t UpTo(int32_t most) { return static_cast<int32_t>(Below(static_cast<uint64_t>(most) + 1)); }

  Config RandomConfig() {
    Config config = SmallConfig();
    config.arena_bytes = (32 + Below(160)) * 1024;
    config.extent_at_attach = Chance(30);
    config.compaction_reserve_ppm = std::vector<int64_t>{0, 10'000, 200'000, 500'000}[Below(4)];
    config.queued_evicts_per_lease = static_cast<uint32_t>(1 + Below(4));
    config.max_leases_per_tenant = static_cast<uint32_t>(1 + Below(4));
    config.max_sequences_per_lease = static_cast<uint32_t>(2 + Below(6));
    config.tenants = {{"a", (16 + Below(120)) * 1024, PolicyOf(1)}, {"b", 1 << 30, PolicyOf(2)}};
    return config;
  }

  Event Tell(Event event) {
    history_.push_back(event);
    if (history_.size() > 40) history_.pop_front();
    world_.Post(event);
    return event;
  }

  void Step() {
    const uint64_t dice = Below(100);
    if (dice < 40) return AnswerSomething();
    if (dice < 45) return Repeat();
    if (dice < 48) return CancelSomething();
    if (dice < 50) return Nonsense();
    if (dice < 51) return SetTenant();
    if (clients_.empty() || dice < 53) return Arrive();
    Client& client = clients_[Below(clients_.size())];
    if (dice < 58) return Reattach(client);
    if (dice < 59) return Die(client);
    Work(client);
  }

  void Arrive() {
    if (clients_.size() > 12) clients_.erase(clients_.begin());  // its lease lives on until the end
    Client client;
    client.worker.socket = ++last_socket_;
    const bool known = !Chance(3);
    const SocketOpened opened{last_socket_, known ? (Chance(50) ? "a" : "b") : "nobody", SecretOf(1000 + last_socket_),
                              Chance(80)};
    world_.Post(opened);
    if (Chance(10)) world_.Post(opened);
    const auto kv_heads = static_cast<int32_t>(1 + Below(3));
    const Shape shape{kv_heads * static_cast<int32_t>(1 + Below(2)),
                      std::vector<uint64_t>{64, 256, 768, 1024}[Below(4)], kv_heads};
    client.attach = world_.AttachOf(last_socket_, shape, Below(3) * 1024);
    client.attach.statistics_bytes = Below(3000);
    clients_.push_back(std::move(client));
  }

  // Attach or Hold, whether it is the time for it or not.
  void Reattach(Client& client) {
    if (client.worker.lease == 0 || Chance(10)) {
      client.attach.call = world_.NewCall();
      if (Chance(5)) client.attach.geometry += "x";
      Tell(client.attach);
      asked_.push_back({client.attach.call, client.worker.socket, client.attach});
    } else {
      LeaseRef ref = client.worker.ref;
      if (Chance(3)) ref.epoch = Below(20);
      Tell(HoldOpened{world_.NewCall(), ref});
    }
  }

  void Die(const Client& client) {
    switch (Below(4)) {
      case 0:
        Tell(SocketClosed{client.worker.socket});
        break;
      case 1:
        Tell(Detached{client.worker.socket});
        break;
      case 2:
        Tell(ProcessGone{client.worker.socket});
        break;
      default:
        Tell(SelfTested{client.worker.lease, false});
    }
  }

  SequenceId Pick(const Client& client) {
    if (client.sequences.empty() || Chance(5)) return Below(12);
    auto it = client.sequences.begin();
    std::advance(it, Below(client.sequences.size()));
    return it->first;
  }
  Belief Of(const Client& client, SequenceId id) {
    const auto found = client.sequences.find(id);
    return found == client.sequences.end() ? Belief{} : found->second;
  }
  // The worker has gone on writing, or says something that cannot be.
  int32_t Written(const Belief& belief) {
    if (Chance(5)) return UpTo(200) - 20;
    return belief.written + UpTo(std::max(0, belief.reserved - belief.written));
  }
  uint64_t RequestId() { return Chance(50) ? 0 : ++last_request_; }

  template <typename Asked>
  void Ask(const Client& client, Asked asked) {
    asked.call = world_.NewCall();
    Tell(asked);
    asked_.push_back({asked.call, client.worker.socket, asked});
  }

  void Work(Client& client) {
    const uint64_t dice = Below(100);
    if (dice < 20) return Ask(client, RandomCreate(client));
    const SequenceId id = Pick(client);
    const Belief belief = Of(client, id);
    if (dice < 55) {
      ReserveAsked reserve{0, client.worker.ref, {}};
      for (uint64_t i = 0; i <= Below(3); ++i) {
        const SequenceId other = i == 0 ? id : Pick(client);
        const Belief of = Of(client, other);
        const int32_t total = Chance(5) ? UpTo(3000) - 10 : std::min(of.max_tokens, of.reserved + UpTo(60));
        const uint64_t request = RequestId();
        reserve.items.push_back({other, request, request, total, Written(of)});
      }
      Ask(client, reserve);
    } else if (dice < 65) {
      const uint64_t request = RequestId();
      Ask(client, TruncateAsked{0, client.worker.ref, id, request, request, belief.written - UpTo(20)});
    } else if (dice < 75) {
      ObserveAsked observe{0, client.worker.ref, {}};
      std::set<SequenceId> named;
      for (uint64_t i = 0; i <= Below(2); ++i) {
        const SequenceId other = i == 0 ? id : Pick(client);
        if (!named.insert(other).second) continue;
        const uint64_t request = RequestId();
        observe.items.push_back(
            {other, request, request, Written(Of(client, other)), RandomPolicy(), nullptr, RandomDone()});
      }
      Ask(client, observe);
    } else if (dice < 94) {
      EvictAsked evict{0, client.worker.ref, {}};
      std::set<SequenceId> named;
      for (uint64_t i = 0; i <= Below(3); ++i) {
        const SequenceId other = i == 0 ? id : Pick(client);
        if (!named.insert(other).second) continue;
        const Belief of = Of(client, other);
        EvictItem item;
        item.sequence = other;
        item.request_id = item.request_hash = RequestId();
        item.written_tokens = Written(of);
        if (Chance(10)) item.if_version = of.version + Below(2);
        item.plan_only = Chance(10);
        item.lazy = Chance(30);
        item.policy = RandomPolicy();
        item.spec = BudgetOf(UpTo(60));
        item.export_plan = Chance(30);
        item.export_scores = item.export_plan && Chance(50);
        item.done = RandomDone();
        evict.items.push_back(item);
      }
      Ask(client, evict);
    } else {
      const uint64_t request = RequestId();
      Ask(client, ReleaseSequenceAsked{0, client.worker.ref, id, request, request});
      client.sequences.erase(id);
    }
  }

  std::optional<WordValue> RandomDone() {
    if (Chance(50)) return std::nullopt;
    return WordValue{static_cast<uint32_t>(Below(256)), static_cast<uint32_t>(rng_())};
  }
  PolicyRef RandomPolicy() { return Chance(50) ? nullptr : PolicyOf(UpTo(9)); }

  void SetTenant() {
    const std::string tenant = std::vector<std::string>{"a", "b", "nobody"}[Below(3)];
    Tell(SetTenantAsked{world_.NewCall(), tenant, RandomPolicy()});
  }

  CreateSequenceAsked RandomCreate(const Client& client) {
    CreateSequenceAsked create = CreateOf(client.worker, Below(10), 1 + UpTo(Chance(90) ? 200 : 5000), Below(2));
    if (!Chance(40)) return create;
    const int32_t seen = UpTo(std::min(create.max_tokens, 150));
    std::vector<int32_t> lengths;
    std::vector<int32_t> positions;
    for (int32_t u = 0; u < client.attach.shape.units; ++u) {
      lengths.push_back(UpTo(seen));
      std::vector<int32_t> all(static_cast<size_t>(seen));
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), rng_);
      std::sort(all.begin(), all.begin() + lengths.back());
      positions.insert(positions.end(), all.begin(), all.begin() + lengths.back());
    }
    if (Chance(5) && !positions.empty()) positions[Below(positions.size())] = UpTo(200) - 20;
    create.residents = {seen, lengths, std::make_shared<std::vector<int32_t>>(std::move(positions))};
    return create;
  }

  void AnswerSomething() {
    if (world_.open().empty()) return;
    const size_t index = Below(world_.open().size());
    const Effect effect = world_.open()[index];
    Event event = World::Good(effect);
    if (auto* ready = std::get_if<ObjectReady>(&event); ready != nullptr && Chance(15)) {
      ready->outcome = {Code::kResourceExhausted, "no pages", {}};
    } else if (auto* test = std::get_if<SelfTested>(&event)) {
      test->passed = !Chance(5);
    } else if (auto* done = std::get_if<UnitsCompacted>(&event)) {
      // Only a cancelled job stops early; that an uncancelled one does must not hurt either.
      if (Chance(15)) done->units = static_cast<uint32_t>(Below(done->units + 1));
    } else if (const auto* run = std::get_if<RunEvict>(&effect)) {
      event = RandomAnswer(*run);
    }
    history_.push_back(event);
    world_.AnswerOpen(index, event);
  }

  EvictPlanned RandomAnswer(const RunEvict& run) {
    EvictPlanned planned;
    planned.job = run.job;
    if (!run.observe && Chance(60)) planned.norms = static_cast<uint8_t>(Below(3));
    const uint64_t dice = Below(100);
    if (dice < 8) {
      planned.outcome = {Code::kInvalidArgument, "keys[0][0][3] is not finite", {}};
      return planned;
    }
    planned.no_op = !run.observe && dice < 20;
    if (run.spec != nullptr) planned.budget_tokens = run.spec->budget_tokens;
    if (planned.no_op) return planned;
    if (run.observe || (!run.plan_only && Chance(40))) {
      planned.observed_tokens = run.observed_tokens + UpTo(run.written_tokens - run.observed_tokens);
      if (Chance(2)) planned.observed_tokens = run.written_tokens + 1;  // a device that errs
    }
    if (run.observe) return planned;
    for (const Unit& unit : run.units) {
      const int32_t residents = unit.kept + run.written_tokens - unit.base;
      planned.kept.push_back(Chance(20) ? residents : UpTo(residents));
      planned.scored.push_back(UpTo(planned.kept.back()));
    }
    if (Chance(2)) planned.kept.pop_back();
    if (Chance(2)) ++planned.scored.back();
    if (Chance(20)) planned.scored.clear();
    return planned;
  }

  // An event comes twice. An answered call is repeated by its client under a new id.
  void Repeat() {
    if (history_.empty()) return;
    Event event = history_[Below(history_.size())];
    std::visit(
        [this](auto& e) {
          if constexpr (requires { e.call; } && !std::is_same_v<std::decay_t<decltype(e)>, CallCancelled>) {
            if (!world_.waiting.contains(e.call)) e.call = world_.NewCall();
          }
        },
        event);
    world_.Post(event);
  }

  void CancelSomething() {
    if (world_.waiting.empty()) return;
    auto it = world_.waiting.begin();
    std::advance(it, Below(world_.waiting.size()));
    Tell(CallCancelled{*it});
  }

  // Events about things that never were.
  void Nonsense() {
    const uint64_t id = 1'000'000 + Below(100);
    const std::vector<Event> events = {
        SocketClosed{id},    Detached{id},        ProcessGone{id},         SelfTested{id, true},
        ObjectReady{id, {}}, ObjectDestroyed{id}, PlanOf(id, {}),          UnitsCompacted{id, 3},
        JobEnded{id},        CallCancelled{id},   JobEnded{1 + Below(50)}, ObjectReady{1, {}},
        ObjectDestroyed{1},  CallCancelled{1},    SelfTested{1, true},     StatusAsked{world_.NewCall()}};
    world_.Post(events[Below(events.size())]);
  }

  // Workers read their replies.
  void Learn() {
    for (size_t i = 0; i < asked_.size();) {
      const Asked asked = asked_[i];
      const Reply* reply = world_.ReplyTo(asked.call);
      if (reply == nullptr && !world_.cancelled.contains(asked.call)) {
        ++i;
        continue;
      }
      asked_.erase(asked_.begin() + static_cast<std::ptrdiff_t>(i));
      for (Client& client : clients_) {
        if (reply != nullptr && client.worker.socket == asked.socket) LearnFrom(client, asked.event, *reply);
      }
    }
  }

  void LearnFrom(Client& client, const Event& event, const Reply& reply) {
    if (const auto* attached = std::get_if<AttachReply>(&reply.body)) {
      client.worker.lease = attached->lease;
      client.worker.ref = {attached->key, attached->epoch};
    } else if (std::holds_alternative<CreateSequenceReply>(reply.body)) {
      const auto& create = std::get<CreateSequenceAsked>(event);
      const int32_t seen = create.residents ? create.residents->seen : 0;
      client.sequences.try_emplace(create.sequence, Belief{create.max_tokens, seen, seen, 1});
    } else if (const auto* reserved = std::get_if<ReserveReply>(&reply.body)) {
      const auto& items = std::get<ReserveAsked>(event).items;
      ASSERT_EQ(reserved->results.size(), items.size());
      for (size_t i = 0; i < items.size(); ++i) {
        if (!reserved->results[i].outcome.ok()) continue;
        EXPECT_GE(reserved->results[i].reserved_tokens, items[i].total_tokens);
        Belief& belief = client.sequences[items[i].sequence];
        belief.reserved = reserved->results[i].reserved_tokens;
        belief.written = items[i].written_tokens;
      }
    } else if (const auto* truncated = std::get_if<TruncateReply>(&reply.body)) {
      Belief& belief = client.sequences[std::get<TruncateAsked>(event).sequence];
      belief.written = truncated->tokens;
      belief.reserved = truncated->reserved_tokens;
    } else if (const auto* observed = std::get_if<ObserveReply>(&reply.body)) {
      const auto& items = std::get<ObserveAsked>(event).items;
      ASSERT_EQ(observed->results.size(), items.size());
      for (size_t i = 0; i < items.size(); ++i) {
        EXPECT_EQ(observed->results[i].sequence, items[i].sequence);
        if (!observed->results[i].outcome.ok()) continue;
        EXPECT_LE(observed->results[i].observed_tokens, items[i].written_tokens);
        client.sequences[items[i].sequence].written = items[i].written_tokens;
      }
    } else if (const auto* evicted = std::get_if<EvictReply>(&reply.body)) {
      const auto& items = std::get<EvictAsked>(event).items;
      ASSERT_EQ(evicted->results.size(), items.size());
      for (size_t i = 0; i < items.size(); ++i) {
        EXPECT_EQ(evicted->results[i].sequence, items[i].sequence);
        if (!evicted->results[i].outcome.ok()) continue;
        Belief& belief = client.sequences[items[i].sequence];
        belief.written = items[i].written_tokens;
        if (!items[i].plan_only && !evicted->results[i].no_op) belief.reserved = belief.written;
        belief.version = evicted->results[i].version;
      }
    }
  }

  void Finish() {
    world_.FinishAll();
    for (const CallId call : world_.waiting) {
      EXPECT_TRUE(world_.holds.contains(call)) << "call " << call << " waits though everything was answered";
    }
    for (SocketId socket = 1; socket <= last_socket_; ++socket) {
      if (Chance(50)) world_.Post(SocketClosed{socket});
      world_.Post(Chance(50) ? Event(ProcessGone{socket}) : Event(Detached{socket}));
      world_.Post(SocketClosed{socket});
    }
    world_.FinishAll();
    EXPECT_TRUE(world_.waiting.empty());
    EXPECT_EQ(world_.core.ledger().free, world_.core.ledger().arena);
    EXPECT_TRUE(world_.Status().leases.empty());
    world_.Post(DrainAsked{});
    EXPECT_TRUE(world_.drained);
  }

  struct Asked {
    CallId call = 0;
    SocketId socket = 0;
    Event event;
  };

  std::mt19937_64 rng_;
  World world_;
  std::vector<Client> clients_;
  std::vector<Asked> asked_;
  std::deque<Event> history_;
  SocketId last_socket_ = 0;
  uint64_t last_request_ = 0;
};

class RandomWorld : public testing::TestWithParam<uint64_t> {};

TEST_P(RandomWorld, KeepsItsBooks) {
  for (uint64_t seed = GetParam() * 25; seed < (GetParam() + 1) * 25; ++seed) {
    SCOPED_TRACE(seed);
    Chaos(seed).Run(3000);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomWorld, testing::Range<uint64_t>(0, 16));

}  // namespace
}  // namespace kvsteward::core
