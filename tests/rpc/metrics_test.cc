#include "service/telemetry/metrics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
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
v1::EvictRequest HalfOf40(const RawWorker& worker, const std::string& policy) {
  v1::EvictRequest request;
  *request.mutable_lease() = worker.lease();
  v1::EvictSequence* item = request.add_sequences();
  item->set_sequence(1);
  item->set_written_tokens(40);
  item->set_budget_tokens(20);
  item->set_policy(policy);
  return request;
}

TEST(MetricsTest, CallsAndEvictionsAreCounted) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  v1::CreateSequenceRequest create;
  *create.mutable_lease() = worker.lease();
  create.set_sequence(1);
  create.set_max_tokens(64);
  v1::CreateSequenceResponse created;
  ASSERT_TRUE(worker.stub().CreateSequence(Context().get(), create, &created).ok());
  v1::ReserveRequest reserve;
  *reserve.mutable_lease() = worker.lease();
  reserve.add_sequences()->set_sequence(1);
  reserve.mutable_sequences(0)->set_total_tokens(40);
  v1::ReserveResponse reserved;
  ASSERT_TRUE(worker.stub().Reserve(Context().get(), reserve, &reserved).ok());
  create.set_sequence(0);
  ASSERT_FALSE(worker.stub().CreateSequence(Context().get(), create, &created).ok());

  v1::EvictResponse evicted;
  v1::EvictRequest plan = HalfOf40(worker, "streaming-llm");
  plan.mutable_sequences(0)->set_plan_only(true);
  ASSERT_TRUE(worker.stub().Evict(Context().get(), plan, &evicted).ok());
  ASSERT_EQ(evicted.sequences(0).outcome().code(), 0u) << evicted.ShortDebugString();
  EXPECT_THAT(TextOf(rig.metrics()), Not(HasSubstr("kvsteward_evictions_total{")));

  ASSERT_TRUE(worker.stub().Evict(Context().get(), HalfOf40(worker, "streaming-llm"), &evicted).ok());
  ASSERT_EQ(evicted.sequences(0).outcome().code(), 0u) << evicted.ShortDebugString();
  v1::EvictRequest unknown = HalfOf40(worker, "name: mine\nsignal: none\n");
  unknown.mutable_sequences(0)->set_sequence(9);
  ASSERT_TRUE(worker.stub().Evict(Context().get(), unknown, &evicted).ok());

  const std::string text = TextOf(rig.metrics());
  for (const char* line : {
           "kvsteward_info{backend=\"host\",export_method=\"memfd\",version=\"1.2.3\"} 1",
           "kvsteward_rpcs_total{code=\"OK\",method=\"Attach\"} 1",
           "kvsteward_rpcs_total{code=\"OK\",method=\"CreateSequence\"} 1",
           "kvsteward_rpcs_total{code=\"INVALID_ARGUMENT\",method=\"CreateSequence\"} 1",
           "kvsteward_rpcs_total{code=\"OK\",method=\"Evict\"} 3",
           "kvsteward_rpc_duration_seconds_count{method=\"Reserve\"} 1",
           "kvsteward_evictions_total{code=\"OK\",policy=\"streaming-llm\",tenant=\"t\"} 1",
           "kvsteward_evictions_total{code=\"NOT_FOUND\",policy=\"custom\",tenant=\"t\"} 1",
           "kvsteward_evicted_tokens_total{policy=\"streaming-llm\",tenant=\"t\"} 80",
           // K and V of 8 floats each; 3 blocks of a unit became 2.
           "kvsteward_evicted_bytes_total{policy=\"streaming-llm\",tenant=\"t\"} 5120",
           "kvsteward_returned_bytes_total{policy=\"streaming-llm\",tenant=\"t\"} 4096",
           "kvsteward_evict_duration_seconds_count{stage=\"compact\"} 1",
       }) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

TEST(MetricsTest, GaugesAreTheStatus) {
  telemetry::Metrics metrics({"1", "host", "memfd"});
  core::StatusReply status;
  status.ledger = {100, 10, 20, 30, 35, 5};
  status.tenants = {{"red", 90, 80, 70}};
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
