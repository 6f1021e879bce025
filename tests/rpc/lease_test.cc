// The life of leases: from the ticket to ends of every kind, and drain.
#include <future>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "gtest/gtest.h"
#include "tests/rpc/every_method.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;

grpc::StatusCode Health(const Rig& rig, uint32_t* status) {
  grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::UInt32Value> stub(
      grpc::CreateChannel(rig.address(), grpc::InsecureChannelCredentials()));
  google::protobuf::StringValue request;
  request.set_value("kvsteward.v1.Steward");
  google::protobuf::UInt32Value response;
  const auto context = Context();
  std::promise<grpc::StatusCode> code;
  stub.UnaryCall(context.get(), "/grpc.health.v1.Health/Check", {}, &request, &response,
                 [&code](const grpc::Status& result) { code.set_value(result.error_code()); });
  const grpc::StatusCode result = code.get_future().get();
  *status = response.value();
  return result;
}

TEST(LeaseTest, AttachHoldWorkDetach) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  EXPECT_EQ(worker.attached().backend(), "host");
  EXPECT_EQ(worker.attached().export_method(), "memfd");
  EXPECT_EQ(worker.attached().block_bytes(), 2u * 16 * 8 * 4);
  EXPECT_EQ(worker.attached().extent_bytes(), worker.attached().blocks_per_extent() * worker.attached().block_bytes());
  EXPECT_EQ(worker.attached().window_slot_bytes(), 2u * 4 * 4 * 8 * 4);
  EXPECT_EQ(worker.attached().statistics_bytes(), worker.Object(KVS_STATISTICS, 0).size());
  EXPECT_EQ(worker.attached().plan_bytes(), worker.Object(KVS_PLANS, 0).size());
  EXPECT_EQ(worker.attached().inputs_offset(), KVS_WINDOWS_OFFSET + worker.attached().window_slot_bytes());
  EXPECT_LE(worker.attached().inputs_offset() + RawWorker::SmallGeometry().input_bytes(),
            worker.attached().statistics_bytes());

  v1::CreateSequenceRequest create;
  *create.mutable_lease() = worker.lease();
  create.set_sequence(5);
  create.set_max_tokens(64);
  v1::CreateSequenceResponse created;
  ASSERT_TRUE(worker.stub().CreateSequence(Context().get(), create, &created).ok());
  v1::ReserveRequest reserve;
  *reserve.mutable_lease() = worker.lease();
  reserve.add_sequences()->set_sequence(5);
  reserve.mutable_sequences(0)->set_total_tokens(20);
  v1::ReserveResponse reserved;
  ASSERT_TRUE(worker.stub().Reserve(Context().get(), reserve, &reserved).ok());
  ASSERT_EQ(reserved.sequences(0).outcome().code(), 0u);
  // 20 tokens are two blocks in each of the four rows.
  const auto* table = reinterpret_cast<const kvs_sequence_table*>(
      worker.Object(KVS_TABLES, created.table_chunk()).data() + created.table_offset());
  EXPECT_EQ(table->units, 4u);
  for (uint32_t unit = 0; unit < 4; ++unit) EXPECT_EQ(kvs_current_row(table, unit)->blocks, 2u);
  EXPECT_EQ(rig.GetStatus().ledger().used_bytes(), 8 * worker.attached().block_bytes());
  EXPECT_EQ(worker.Object(KVS_EXTENT, 0).size() % 4096, 0u);

  const v1::GetStatusResponse live = rig.GetStatus();
  ASSERT_EQ(live.leases_size(), 1);
  EXPECT_EQ(live.leases(0).name(), worker.attached().lease_name());
  EXPECT_EQ(live.leases(0).tenant(), "t");
  EXPECT_EQ(live.leases(0).state(), v1::LeaseStatus::STATE_LIVE);
  EXPECT_EQ(live.leases(0).sequences(), 1u);
  EXPECT_EQ(live.version(), "1.2.3");

  worker.Detach();
  worker.HangUp();
  const v1::GetStatusResponse after = rig.AwaitNoLeases();
  EXPECT_EQ(after.ledger().free_bytes(), after.ledger().arena_bytes());
  EXPECT_NE(worker.FinishHold().error_code(), grpc::StatusCode::OK);
}

TEST(LeaseTest, EveryMethodRefusesAnEndedLease) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  worker.Detach();
  rig.AwaitNoLeases();
  EXPECT_EQ(worker.FinishHold().error_code(), grpc::StatusCode::UNAVAILABLE);
  for (const auto& [name, call] : EveryMethod(worker.lease())) {
    EXPECT_EQ(call(worker.stub(), *Context()).error_code(), grpc::StatusCode::NOT_FOUND) << name;
  }
}

TEST(LeaseTest, CallsNeedHold) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_TRUE(worker.Attach(RawWorker::SmallGeometry()).ok());
  for (const auto& [name, call] : EveryMethod(worker.lease())) {
    if (name == "Attach" || name == "Hold") continue;
    EXPECT_EQ(call(worker.stub(), *Context()).error_code(), grpc::StatusCode::FAILED_PRECONDITION) << name;
  }
}

TEST(LeaseTest, AFailedSelfTestEndsTheLease) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_TRUE(worker.Attach(RawWorker::SmallGeometry()).ok());
  const grpc::Status held = worker.Hold(/*honest=*/false);
  EXPECT_EQ(held.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(held.error_message(), HasSubstr("self-test"));
  EXPECT_TRUE(HungUp(worker.socket()));
}

TEST(LeaseTest, MemoryOfAWorkerThatHangsUpAndLivesIsKept) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  worker.HangUp();  // this very process lives on
  EXPECT_EQ(worker.FinishHold().error_code(), grpc::StatusCode::UNAVAILABLE);
  const v1::GetStatusResponse status = rig.GetStatus();
  ASSERT_EQ(status.leases_size(), 1);
  EXPECT_EQ(status.leases(0).state(), v1::LeaseStatus::STATE_ENDING);
  EXPECT_GT(status.ledger().quarantined_bytes(), 0u);
}

TEST(LeaseTest, ATicketWithoutAttachCostsNothing) {
  Rig rig({.leases = 4});
  for (int i = 0; i < 50; ++i) {
    UniqueFd socket = ConnectFdSocket(rig.fd_path());
    socket.reset();
  }
  rig.AwaitNoLeases();
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
}

TEST(DrainTest, NoticesGoOutAndNothingNewComesIn) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  RawWorker late(rig.fd_path(), rig.Workers());
  uint32_t health = 0;
  ASSERT_EQ(Health(rig, &health), grpc::StatusCode::OK);
  EXPECT_EQ(health, 1u);  // SERVING

  rig.server().SetNotServing();
  rig.steward().Post(core::DrainAsked{});
  EXPECT_EQ(worker.NextNotice(), v1::HoldResponse::NOTICE_DRAINING);
  ASSERT_EQ(Health(rig, &health), grpc::StatusCode::OK);
  EXPECT_EQ(health, 2u);  // NOT_SERVING
  EXPECT_TRUE(rig.GetStatus().draining());
  EXPECT_EQ(late.Attach(RawWorker::SmallGeometry()).error_code(), grpc::StatusCode::UNAVAILABLE);
  for (const auto& [name, call] : EveryMethod(worker.lease())) {
    if (name != "CreateSequence") continue;
    EXPECT_EQ(call(worker.stub(), *Context()).error_code(), grpc::StatusCode::UNAVAILABLE);
  }
}

TEST(DrainTest, AnOperatorCanAskAgainAndAgain) {
  Rig rig;
  for (int i = 1; i <= 3; ++i) {
    v1::DrainResponse response;
    ASSERT_TRUE(rig.Admin()->Drain(Context().get(), {}, &response).ok());
    EXPECT_EQ(rig.drains_asked(), i);
  }
}

TEST(AdminTest, OperatorsAndWorkersHaveServicesOfTheirOwn) {
  Rig rig;
  const auto admin = v1::Admin::NewStub(grpc::CreateChannel(rig.address(), grpc::InsecureChannelCredentials()));
  v1::GetStatusResponse status;
  EXPECT_EQ(admin->GetStatus(Context().get(), {}, &status).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace kvsteward::rpc
