// kvsteward_bookkeeping_bench: what core and the table writer do for one Evict and one Reserve of a sequence of 32,768
// tokens in 32 layers of 8 kv heads. A steward without threads: the device keeps a tenth and takes no time, memory is
// at hand. Beside it, in turns, a memcpy of the bytes that were written to tables.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/unique_fd.h"
#include "service/core/core.h"
#include "service/memory/table_writer.h"
#include "tests/bench/measure.h"

namespace kvsteward::bench {
namespace {

constexpr core::Shape kShape = {.units = 32 * 8, .block_bytes = 8192, .kv_heads = 8};
constexpr int32_t kTokens = 32'768;
constexpr int32_t kKept = kTokens / 10;
constexpr int32_t kSteps = 8;  // blocks that decoding adds one by one to every row, if it goes on for long

// What was spent on one call: in Apply, and in the table writer.
struct Cost {
  double core = 0;
  double tables = 0;
  uint64_t table_bytes = 0;
};

// Carries out effects until the machine is at rest.
class World {
 public:
  World() : core_(MakeConfig(), [](const core::LeaseSpec&, const core::EvictSpec&, int32_t) { return 0; }) {
    core_.Apply(core::SocketOpened{.socket = 1, .tenant = "a", .ticket = {1}}, {});
    core::AttachAsked attach;
    attach.call = NextCall();
    attach.ticket = {1};
    attach.new_key = {2};
    attach.shape = kShape;
    attach.statistics_bytes = attach.plan_bytes = 4096;
    lease_.key = {2};
    Run(std::move(attach));
    lease_.epoch = std::get<core::AttachReply>(body_).epoch;
    Run(core::HoldOpened{.call = NextCall(), .lease = lease_});
  }

  void Create(core::SequenceId sequence) {
    core::CreateSequenceAsked asked;
    asked.call = NextCall();
    asked.lease = lease_;
    asked.sequence = sequence;
    asked.max_tokens = 2 * kTokens;
    Run(std::move(asked));
  }

  Cost Reserve(core::SequenceId sequence, int32_t total, int32_t written) {
    return Run(core::ReserveAsked{NextCall(), lease_, {{sequence, 0, 0, total, written}}});
  }

  Cost Evict(core::SequenceId sequence, int32_t written) {
    core::EvictItem item;
    item.sequence = sequence;
    item.written_tokens = written;
    return Run(core::EvictAsked{NextCall(), lease_, {item}});
  }

  void Release(core::SequenceId sequence) {
    core::ReleaseSequenceAsked asked;
    asked.call = NextCall();
    asked.lease = lease_;
    asked.sequence = sequence;
    Run(std::move(asked));
  }

  // Memory of a table's size; the first `bytes` are copied to it.
  double Copy(uint64_t bytes) {
    if (source_.size() < bytes) source_.assign(bytes, 1);
    return Measure([&] { std::memcpy(chunks_.front().data(), source_.data(), bytes); }).wall;
  }

 private:
  static core::Config MakeConfig() {
    core::Config config;
    config.arena_bytes = uint64_t{16} << 30;
    config.tenants = {{"a", config.arena_bytes, nullptr}};
    return config;
  }

  core::CallId NextCall() { return ++calls_; }

  template <class Asked>
  Cost Run(Asked asked) {
    Cost cost;
    std::vector<core::Event> events{std::move(asked)};
    body_ = {};
    while (!events.empty()) {
      const core::Event event = std::move(events.front());
      events.erase(events.begin());
      std::vector<core::Effect> effects;
      cost.core += Measure([&] { effects = core_.Apply(event, {}); }).wall;
      for (core::Effect& effect : effects) {
        std::visit([&](auto& e) { Do(e, events, cost); }, effect);
      }
    }
    return cost;
  }

  template <class E>
  void Do(E&, std::vector<core::Event>&, Cost&) {}
  void Do(core::Reply& reply, std::vector<core::Event>&, Cost&) {
    if (!reply.outcome.ok()) Fail(reply.outcome.message);
    body_ = std::move(reply.body);
    if (const auto* reserved = std::get_if<core::ReserveReply>(&body_)) CheckResult(reserved->results[0]);
    if (const auto* evicted = std::get_if<core::EvictReply>(&body_)) CheckResult(evicted->results[0]);
  }
  void Do(core::CreateObject& effect, std::vector<core::Event>& events, Cost&) {
    const core::Object& object = effect.object;
    if (object.kind == core::ObjectKind::kTables) chunks_.push_back(NewChunk(object.bytes));
    events.push_back(core::ObjectReady{object.id, {}});
  }
  void Do(core::RunSelfTest& effect, std::vector<core::Event>& events, Cost&) {
    events.push_back(core::SelfTested{effect.lease, true});
  }
  void Do(core::InitTable& effect, std::vector<core::Event>&, Cost& cost) {
    Write(cost, 0, [&] { return memory::InitTable(ChunkOf(effect.table), effect.table, effect.units); });
  }
  void Do(core::AppendRows& effect, std::vector<core::Event>&, Cost& cost) {
    Write(cost, effect.rows.size() * 2 * sizeof(uint32_t),
          [&] { return memory::AppendRows(ChunkOf(effect.table), effect.table, effect.rows); });
  }
  void Do(core::TrimRows& effect, std::vector<core::Event>&, Cost& cost) {
    Write(cost, effect.rows.size() * sizeof(uint32_t),
          [&] { return memory::TrimRows(ChunkOf(effect.table), effect.table, effect.rows); });
  }
  void Do(core::RunEvict& effect, std::vector<core::Event>& events, Cost&) {
    table_ = effect.table;
    written_ = effect.written_tokens;
    core::EvictPlanned planned;
    planned.job = effect.job;
    planned.budget_tokens = kKept;
    planned.kept.assign(effect.units.size(), kKept);
    events.push_back(std::move(planned));
  }
  void Do(core::CompactUnits& effect, std::vector<core::Event>& events, Cost& cost) {
    const uint64_t row_bytes = (4 + BlocksFor(kKept)) * sizeof(uint32_t) + sizeof(uint64_t);
    Write(cost, effect.units.size() * row_bytes, [&] {
      absl::Status status;
      for (const core::CompactTo& to : effect.units) {
        status.Update(memory::PublishRow(ChunkOf(table_), table_, to.unit, kKept, written_, to.row));
      }
      return status;
    });
    events.push_back(core::UnitsCompacted{effect.job, static_cast<uint32_t>(effect.units.size()), 0});
  }
  void Do(core::EndJob& effect, std::vector<core::Event>& events, Cost&) {
    events.push_back(core::JobEnded{effect.job});
  }

  template <class Body>
  void Write(Cost& cost, uint64_t bytes, const Body& body) {
    absl::Status status;
    cost.tables += Measure([&] { status = body(); }).wall;
    cost.table_bytes += bytes;
    if (!status.ok()) Fail(status.ToString());
  }

  template <class Result>
  static void CheckResult(const Result& result) {
    if (!result.outcome.ok()) Fail(result.outcome.message);
  }

  [[noreturn]] static void Fail(const std::string& why) {
    std::fprintf(stderr, "kvsteward_bookkeeping_bench: %s\n", why.c_str());
    std::exit(1);
  }

  static Mapping NewChunk(uint64_t bytes) {
    const UniqueFd fd(memfd_create("bench", MFD_CLOEXEC));
    void* const at = !fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0
                         ? MAP_FAILED
                         : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd.get(), 0);
    if (at == MAP_FAILED) Fail("no memory for a table");
    return {at, bytes};
  }
  std::span<std::byte> ChunkOf(const core::TablePlace& table) {
    return {chunks_[table.chunk].data(), chunks_[table.chunk].size()};
  }

  core::Core core_;
  core::LeaseRef lease_;
  core::CallId calls_ = 0;
  core::ReplyBody body_;
  std::vector<Mapping> chunks_;
  std::vector<char> source_;
  core::TablePlace table_;  // of the eviction under way
  int32_t written_ = 0;
};

// The parts of a call in microseconds.
struct Parts {
  Series core, tables, both, ratio, copy;

  void Add(const Cost& cost, double copied) {
    core.Add(1e6 * cost.core);
    tables.Add(1e6 * cost.tables);
    both.Add(1e6 * (cost.core + cost.tables));
    copy.Add(1e6 * copied);
    ratio.Add((cost.core + cost.tables) / copied);
  }
  void Report(const std::string& name, const std::string& key, Section& section) const {
    section.Add(name + ", us", key + "_us", both);
    section.Add("  of which core::Apply", key + "_core_us", core);
    section.Add("  of which tables", key + "_tables_us", tables);
    section.Add("memcpy of the table bytes it writes, us", key + "_memcpy_us", copy);
    section.Add(name + " / that memcpy", key + "_to_memcpy", ratio);
  }
};

int Main(int argc, char** argv) {
  constexpr int kRounds = 201;
  World world;
  world.Create(1);  // another one, so that the sequence is not alone in the lease
  world.Reserve(1, kTokens, 0);
  Parts reserve;
  Parts evict;
  Parts evict_late;
  for (int round = 0; round < kRounds; ++round) {
    for (const int32_t steps : {1, kSteps}) {
      world.Create(2);
      int32_t tokens = kTokens;
      world.Reserve(2, tokens, 0);
      for (int32_t step = 0; step < steps; ++step) {
        const Cost cost = world.Reserve(2, tokens + 16, tokens);
        tokens += 16;
        reserve.Add(cost, world.Copy(cost.table_bytes));
      }
      const Cost cost = world.Evict(2, tokens);
      (steps == 1 ? evict : evict_late).Add(cost, world.Copy(cost.table_bytes));
      world.Release(2);
    }
  }
  Section section("Bookkeeping of 32,768 tokens in 256 units, " + std::to_string(kRounds) + " rounds");
  reserve.Report("Reserve, one block more a unit", "reserve", section);
  evict.Report("Evict, rows in 2 runs", "evict", section);
  evict_late.Report("Evict, rows in " + std::to_string(kSteps + 1) + " runs", "evict_late", section);
  if (argc > 2 && std::strcmp(argv[1], "--json") == 0) {
    std::ofstream file(argv[2]);
    file << section.Take().dump(2) << '\n';
    return file.good() ? 0 : 1;
  }
  return 0;
}

}  // namespace
}  // namespace kvsteward::bench

int main(int argc, char** argv) { return kvsteward::bench::Main(argc, argv); }
