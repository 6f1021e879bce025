#include "service/telemetry/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <exception>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::telemetry {
namespace {

using prometheus::ClientMetric;
using prometheus::Labels;
using prometheus::MetricFamily;

// From 10 us to half a minute.
const prometheus::Histogram::BucketBoundaries kSeconds = {0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01,
                                                          0.03,    0.1,     0.3,    1,      3,     10,    30};

const std::array<const char*, 17> kCodes = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

std::string CodeName(int code) {
  return code >= 0 && code < static_cast<int>(kCodes.size()) ? kCodes[static_cast<size_t>(code)] : "UNKNOWN";
}

double Seconds(uint64_t us) { return static_cast<double>(us) / 1e6; }

Labels LabelsOf(const std::string& tenant, const engine::Policy& policy) {
  const absl::StatusOr<engine::Policy> preset = engine::Preset(policy.name);
  return {{"policy", preset.ok() && *preset == policy ? policy.name : "custom"}, {"tenant", tenant}};
}

Labels With(Labels labels, const std::string& name, const std::string& value) {
  labels[name] = value;
  return labels;
}

// A family of gauges that exists for one scrape.
class Gauges {
 public:
  Gauges(std::string name, std::string help) {
    family_.name = std::move(name);
    family_.help = std::move(help);
    family_.type = prometheus::MetricType::Gauge;
  }
  void Add(const Labels& labels, uint64_t value) {
    ClientMetric metric;
    for (const auto& [name, text] : labels) metric.label.push_back({name, text});
    metric.gauge.value = static_cast<double>(value);
    family_.metric.push_back(std::move(metric));
  }
  MetricFamily Take() { return std::move(family_); }

 private:
  MetricFamily family_;
};

void Gather(const core::StatusReply& status, std::vector<MetricFamily>& families) {
  Gauges arena("kvsteward_arena_bytes", "Arena bytes by state");
  arena.Add({{"state", "free"}}, status.ledger.free);
  arena.Add({{"state", "used"}}, status.ledger.used);
  arena.Add({{"state", "metadata"}}, status.ledger.metadata);
  arena.Add({{"state", "reserved"}}, status.ledger.reserved);
  arena.Add({{"state", "quarantined"}}, status.ledger.quarantined);
  Gauges limits("kvsteward_tenant_limit_bytes", "Arena bytes that a tenant may have");
  Gauges charged("kvsteward_tenant_charged_bytes", "Arena bytes that a tenant has, metadata included");
  Gauges used("kvsteward_tenant_used_bytes", "Bytes of blocks of a tenant's sequences");
  for (const core::TenantStatus& tenant : status.tenants) {
    limits.Add({{"tenant", tenant.name}}, tenant.hard_limit_bytes);
    charged.Add({{"tenant", tenant.name}}, tenant.charged_bytes);
    used.Add({{"tenant", tenant.name}}, tenant.used_bytes);
  }
  std::map<core::LeaseState, uint64_t> states;
  for (const core::LeaseStatus& lease : status.leases) ++states[lease.state];
  Gauges leases("kvsteward_leases", "Leases by state");
  leases.Add({{"state", "attaching"}}, states[core::LeaseState::kAttaching]);
  leases.Add({{"state", "attached"}}, states[core::LeaseState::kAttached]);
  leases.Add({{"state", "live"}}, states[core::LeaseState::kLive]);
  leases.Add({{"state", "ending"}}, states[core::LeaseState::kEnding]);
  leases.Add({{"state", "quarantined"}}, states[core::LeaseState::kQuarantined]);
  for (Gauges* gauges : {&arena, &limits, &charged, &used, &leases}) families.push_back(gauges->Take());
}

}  // namespace

struct Metrics::Impl : prometheus::Collectable {
  Impl();

  std::vector<MetricFamily> Collect() const override { return Collect(ask_status); }
  std::vector<MetricFamily> Collect(const AskStatus& ask) const {
    std::vector<MetricFamily> families = registry.Collect();
    if (const std::optional<core::StatusReply> status = ask()) Gather(*status, families);
    return families;
  }

  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& calls;
  prometheus::Family<prometheus::Histogram>& call_seconds;
  prometheus::Family<prometheus::Counter>& evictions;
  prometheus::Family<prometheus::Counter>& plans;
  prometheus::Family<prometheus::Counter>& tokens_evicted;
  prometheus::Family<prometheus::Counter>& bytes_evicted;
  prometheus::Family<prometheus::Counter>& bytes_returned;
  prometheus::Family<prometheus::Histogram>& evict_seconds;
  prometheus::Family<prometheus::Counter>& observations;
  prometheus::Family<prometheus::Counter>& rows_observed;
  prometheus::Family<prometheus::Histogram>& observe_seconds;

  AskStatus ask_status;
  std::unique_ptr<prometheus::Exposer> exposer;
};

Metrics::Impl::Impl()
    : calls(prometheus::BuildCounter()
                .Name("kvsteward_rpcs_total")
                .Help("RPCs answered, by method and code")
                .Register(registry)),
      call_seconds(prometheus::BuildHistogram()
                       .Name("kvsteward_rpc_duration_seconds")
                       .Help("From an RPC's request to its answer")
                       .Register(registry)),
      evictions(prometheus::BuildCounter()
                    .Name("kvsteward_evictions_total")
                    .Help("Evictions of one sequence answered, by policy, tenant and code")
                    .Register(registry)),
      plans(prometheus::BuildCounter()
                .Name("kvsteward_plans_total")
                .Help("Evictions that were decided, by policy, tenant and who did: device or host")
                .Register(registry)),
      tokens_evicted(prometheus::BuildCounter()
                         .Name("kvsteward_evicted_tokens_total")
                         .Help("Tokens that went, counted in each layer and kv head")
                         .Register(registry)),
      bytes_evicted(prometheus::BuildCounter()
                        .Name("kvsteward_evicted_bytes_total")
                        .Help("Keys and values of tokens that went")
                        .Register(registry)),
      bytes_returned(prometheus::BuildCounter()
                         .Name("kvsteward_returned_bytes_total")
                         .Help("Blocks that evictions gave back to their lease")
                         .Register(registry)),
      evict_seconds(prometheus::BuildHistogram()
                        .Name("kvsteward_evict_duration_seconds")
                        .Help("Time of one sequence's eviction by stage")
                        .Register(registry)),
      observations(prometheus::BuildCounter()
                       .Name("kvsteward_observations_total")
                       .Help("Observations of one sequence answered, by policy, tenant and code")
                       .Register(registry)),
      rows_observed(prometheus::BuildCounter()
                        .Name("kvsteward_observed_rows_total")
                        .Help("Query rows added to running scores, each counted once for all layers and heads")
                        .Register(registry)),
      observe_seconds(prometheus::BuildHistogram()
                          .Name("kvsteward_observe_duration_seconds")
                          .Help("Time of one sequence's observation by stage")
                          .Register(registry)) {}

Metrics::Metrics(const Identity& identity) : impl_(std::make_shared<Impl>()) {
  prometheus::BuildGauge()
      .Name("kvsteward_info")
      .Help("What runs here")
      .Register(impl_->registry)
      .Add({{"version", identity.version}, {"backend", identity.backend}, {"export_method", identity.export_method}})
      .Set(1);
}

Metrics::~Metrics() { Hide(); }

void Metrics::CountCall(const std::string& method, int code, double seconds) {
  impl_->calls.Add({{"method", method}, {"code", CodeName(code)}}).Increment();
  impl_->call_seconds.Add({{"method", method}}, kSeconds).Observe(seconds);
}

void Metrics::CountEviction(const std::string& tenant, const core::EvictResult& result) {
  if (result.policy == nullptr) return;  // a repetition
  const Labels labels = LabelsOf(tenant, *result.policy);
  impl_->evictions.Add(With(labels, "code", CodeName(static_cast<int>(result.outcome.code)))).Increment();
  if (result.no_op) return;  // lazy ones are asked for at every step
  if (result.outcome.ok()) impl_->plans.Add(With(labels, "by", result.planned_on_host ? "host" : "device")).Increment();
  // A cancelled eviction may have compacted some units: what those gave counts.
  if (!result.outcome.ok() && result.units_compacted == 0) return;
  const int64_t before = std::accumulate(result.lengths.begin(), result.lengths.end(), int64_t{0});
  const int64_t after = std::accumulate(result.kept.begin(), result.kept.end(), int64_t{0});
  impl_->tokens_evicted.Add(labels).Increment(static_cast<double>(before - after));
  impl_->bytes_evicted.Add(labels).Increment(static_cast<double>(result.bytes_evicted));
  impl_->bytes_returned.Add(labels).Increment(static_cast<double>(result.bytes_returned));
  const auto observe = [this](const char* stage, uint64_t us) {
    impl_->evict_seconds.Add({{"stage", stage}}, kSeconds).Observe(Seconds(us));
  };
  observe("queue", result.times.queue_us);
  observe("score", result.times.score_us);
  observe("select", result.times.select_us);
  observe("compact", result.times.compact_us);
}

void Metrics::CountObservation(const std::string& tenant, int32_t rows, const core::ObserveResult& result) {
  if (result.policy == nullptr) return;  // a repetition
  const Labels labels = LabelsOf(tenant, *result.policy);
  impl_->observations.Add(With(labels, "code", CodeName(static_cast<int>(result.outcome.code)))).Increment();
  if (!result.outcome.ok()) return;
  impl_->rows_observed.Add(labels).Increment(rows);
  impl_->observe_seconds.Add({{"stage", "queue"}}, kSeconds).Observe(Seconds(result.times.queue_us));
  impl_->observe_seconds.Add({{"stage", "score"}}, kSeconds).Observe(Seconds(result.times.score_us));
}

std::string Metrics::Text(const AskStatus& ask_status) const {
  return prometheus::TextSerializer().Serialize(impl_->Collect(ask_status));
}

absl::Status Metrics::Expose(const std::string& address, AskStatus ask_status) {
  impl_->ask_status = std::move(ask_status);
  try {
    impl_->exposer = std::make_unique<prometheus::Exposer>(address);
  } catch (const std::exception& error) {
    return absl::UnavailableError("metrics cannot be served on " + address + ": " + error.what());
  }
  impl_->exposer->RegisterCollectable(impl_);
  return absl::OkStatus();
}

void Metrics::Hide() { impl_->exposer.reset(); }

}  // namespace kvsteward::telemetry
