#include "service/telemetry/metrics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/calls.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string TextOf(telemetry::Metrics& metrics) {
  return metrics.Text([]() -> std::optional<core::StatusReply> { return std::nullopt; });
}

// 40 tokens in each of 4 units, evicted to 20.
v1::EvictSequence HalfOf40(const std::string& policy) {
  v1::EvictSequence item;
  item.set_sequence(1);
  item.set_written_tokens(40);
  item.set_budget_tokens(20);
  item.set_policy(policy);
  return item;
}

// The rows of 40 tokens, all zeros.
v1::ObserveSequence RowsOf40(const std::string& policy) {
  v1::ObserveSequence item;
  item.set_sequence(1);
  item.set_written_tokens(40);
  item.set_policy(policy);
  item.mutable_window()->set_rows(40);
  item.mutable_window()->set_dtype(v1::D_TYPE_F32);
  item.mutable_window()->set_inline_queries(std::string(2 * 4 * 40 * 8 * sizeof(float), '\0'));
  return item;
}

TEST(MetricsTest, CallsEvictionsAndObservationsAreCounted) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  ASSERT_EQ(Create(worker, 1, 64).code, 0u);
  ASSERT_EQ(Reserve(worker, Room(1, 40)).code, 0u);
  ASSERT_NE(Create(worker, 0, 64).code, 0u);

  v1::EvictSequence plan = HalfOf40("streaming-llm");
  plan.set_plan_only(true);
  ASSERT_EQ(Evict(worker, plan).code, 0u);
  EXPECT_THAT(TextOf(rig.metrics()), Not(HasSubstr("kvsteward_evictions_total{")));

  ASSERT_EQ(Observe(worker, RowsOf40("h2o")).code, 0u);
  ASSERT_NE(Observe(worker, RowsOf40("")).code, 0u);  // the tenant's is not one to observe for
  ASSERT_EQ(Evict(worker, HalfOf40("streaming-llm")).code, 0u);
  v1::EvictSequence lazy = HalfOf40("streaming-llm");
  lazy.set_lazy(true);
  ASSERT_EQ(Evict(worker, lazy).code, 0u);
  // Whatever its name, this is no preset.
  v1::EvictSequence unknown = HalfOf40("name: snapkv\nsignal: none\n");
  unknown.set_sequence(9);
  ASSERT_NE(Evict(worker, unknown).code, 0u);

  const std::string text = TextOf(rig.metrics());
  for (const char* line : {
           "kvsteward_info{backend=\"host\",export_method=\"memfd\",version=\"1.2.3\"} 1",
           "kvsteward_rpcs_total{code=\"OK\",method=\"Attach\"} 1",
           "kvsteward_rpcs_total{code=\"OK\",method=\"CreateSequence\"} 1",
           "kvsteward_rpcs_total{code=\"INVALID_ARGUMENT\",method=\"CreateSequence\"} 1",
           "kvsteward_rpcs_total{code=\"OK\",method=\"Evict\"} 4",
           "kvsteward_rpc_duration_seconds_count{method=\"Reserve\"} 1",
           "kvsteward_evictions_total{code=\"OK\",policy=\"streaming-llm\",tenant=\"t\"} 2",
           "kvsteward_plans_total{by=\"host\",policy=\"streaming-llm\",tenant=\"t\"} 1",
           "kvsteward_evictions_total{code=\"NOT_FOUND\",policy=\"custom\",tenant=\"t\"} 1",
           "kvsteward_evicted_tokens_total{policy=\"streaming-llm\",tenant=\"t\"} 80",
           // K and V of 8 floats each; 3 blocks of a unit became 2.
           "kvsteward_evicted_bytes_total{policy=\"streaming-llm\",tenant=\"t\"} 5120",
           "kvsteward_returned_bytes_total{policy=\"streaming-llm\",tenant=\"t\"} 4096",
           "kvsteward_evict_duration_seconds_count{stage=\"compact\"} 1",
           "kvsteward_observations_total{code=\"OK\",policy=\"h2o\",tenant=\"t\"} 1",
           "kvsteward_observations_total{code=\"INVALID_ARGUMENT\",policy=\"snapkv\",tenant=\"t\"} 1",
           "kvsteward_observed_rows_total{policy=\"h2o\",tenant=\"t\"} 40",
           "kvsteward_observe_duration_seconds_count{stage=\"score\"} 1",
       }) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

TEST(MetricsTest, GaugesAreTheStatus) {
  telemetry::Metrics metrics({"1", "host", "memfd"});
  core::StatusReply status;
  status.ledger = {100, 10, 20, 30, 35, 5};
  status.tenants = {{"red", 90, 80, 70, nullptr}};
  status.leases.resize(3);
  status.leases[1].state = core::LeaseState::kLive;
  status.leases[2].state = core::LeaseState::kLive;
  const std::string text = metrics.Text([&] { return status; });
  for (const char* line :
       {"kvsteward_arena_bytes{state=\"free\"} 10", "kvsteward_arena_bytes{state=\"used\"} 20",
        "kvsteward_arena_bytes{state=\"metadata\"} 30", "kvsteward_arena_bytes{state=\"reserved\"} 35",
        "kvsteward_arena_bytes{state=\"quarantined\"} 5", "kvsteward_tenant_limit_bytes{tenant=\"red\"} 90",
        "kvsteward_tenant_charged_bytes{tenant=\"red\"} 80", "kvsteward_tenant_used_bytes{tenant=\"red\"} 70",
        "kvsteward_leases{state=\"attaching\"} 1", "kvsteward_leases{state=\"live\"} 2",
        "kvsteward_leases{state=\"quarantined\"} 0"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

TEST(MetricsTest, AnAddressThatCannotBeHadIsNamed) {
  telemetry::Metrics metrics({"1", "host", "memfd"});
  const absl::Status status = metrics.Expose("256.0.0.1:1", [] { return core::StatusReply(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("256.0.0.1:1"));
}

}  // namespace
}  // namespace kvsteward::rpc
