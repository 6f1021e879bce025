// The life of calls and leases: cancellation, shutdown, drain, ends of every kind, limits of the transport.
#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "gtest/gtest.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

using Milliseconds = std::chrono::milliseconds;
using Call = std::function<grpc::Status(v1::Steward::Stub&, grpc::ClientContext&)>;

// One well-formed call of every method, for a lease.
std::vector<std::pair<std::string, Call>> EveryMethod(const v1::Lease& lease) {
  const auto unary = [lease](auto request, auto response, auto method) -> Call {
    *request.mutable_lease() = lease;
    return [=](v1::Steward::Stub& stub, grpc::ClientContext& context) {
      auto answer = response;
      return (stub.*method)(&context, request, &answer);
    };
  };
  v1::CreateSequenceRequest create;
  create.set_sequence(7);
  create.set_max_tokens(64);
  v1::ReserveRequest reserve;
  reserve.add_sequences()->set_sequence(7);
  reserve.mutable_sequences(0)->set_total_tokens(32);
  v1::TruncateRequest truncate;
  truncate.set_sequence(7);
  v1::EvictRequest evict;
  evict.add_sequences()->set_sequence(7);
  evict.mutable_sequences(0)->set_budget_tokens(64);
  v1::ReleaseSequenceRequest release;
  release.set_sequence(7);
  return {{"Attach",
           [](v1::Steward::Stub& stub, grpc::ClientContext& context) {
             v1::AttachRequest request = RawWorker::SmallGeometry();
             request.set_ticket(std::string(16, 'x'));
             v1::AttachResponse response;
             return stub.Attach(&context, request, &response);
           }},
          {"Hold",
           [lease](v1::Steward::Stub& stub, grpc::ClientContext& context) {
             v1::HoldRequest request;
             *request.mutable_lease() = lease;
             const auto stream = stub.Hold(&context, request);
             v1::HoldResponse response;
             while (stream->Read(&response)) {
             }
             return stream->Finish();
           }},
          {"CreateSequence", unary(create, v1::CreateSequenceResponse(), &v1::Steward::Stub::CreateSequence)},
          {"Reserve", unary(reserve, v1::ReserveResponse(), &v1::Steward::Stub::Reserve)},
          {"Truncate", unary(truncate, v1::TruncateResponse(), &v1::Steward::Stub::Truncate)},
          {"Evict", unary(evict, v1::EvictResponse(), &v1::Steward::Stub::Evict)},
          {"ReleaseSequence", unary(release, v1::ReleaseSequenceResponse(), &v1::Steward::Stub::ReleaseSequence)}};
}

v1::Lease SomeLease() {
  v1::Lease lease;
  lease.set_key(std::string(16, 'k'));
  lease.set_epoch(1);
  return lease;
}

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

// ---- Calls that nobody answers
// ---------------------------------------------------------------------------------------
TEST(CallTest, ADeadlineEndsEveryMethod) {
  Rig rig({.answers = false});
  const auto stub = rig.Workers();
  for (const auto& [name, call] : EveryMethod(SomeLease())) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + Milliseconds(20));
    EXPECT_EQ(call(*stub, context).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << name;
  }
}  // and the server shuts down, which it cannot while a reactor is unfinished

TEST(CallTest, TheClientCanCancelEveryMethod) {
  Rig rig({.answers = false});
  const auto stub = rig.Workers();
  for (const auto& [name, call] : EveryMethod(SomeLease())) {
    grpc::ClientContext context;
    std::thread canceller([&context] {
      std::this_thread::sleep_for(Milliseconds(10));
      context.TryCancel();
    });
    EXPECT_EQ(call(*stub, context).error_code(), grpc::StatusCode::CANCELLED) << name;
    canceller.join();
  }
}

TEST(CallTest, ShutdownEndsEveryMethod) {
  for (const auto& [name, call] : EveryMethod(SomeLease())) {
    Rig rig({.answers = false});
    const auto stub = rig.Workers();
    auto status = std::async(std::launch::async, [&call = call, &stub] { return call(*stub, *Context()); });
    // The call is on its way or there; either way it must hear of the end.
    std::this_thread::sleep_for(Milliseconds(20));
    rig.server().Shutdown(std::chrono::system_clock::now());
    EXPECT_THAT(status.get().error_code(), AnyOf(grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::CANCELLED)) << name;
  }
}

TEST(CallTest, TheStewardsEndEndsEveryMethod) {
  for (const auto& [name, call] : EveryMethod(SomeLease())) {
    Rig rig;
    RawWorker worker(rig.fd_path(), rig.Workers());
    ASSERT_NO_FATAL_FAILURE(worker.Start());
    rig.steward().Stop();
    rig.server().Shutdown(std::chrono::system_clock::now() + Milliseconds(50));
    const grpc::Status held = worker.FinishHold();
    EXPECT_EQ(held.error_code(), grpc::StatusCode::UNAVAILABLE) << name;
    EXPECT_THAT(call(worker.stub(), *Context()).error_code(),
                AnyOf(grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::CANCELLED))
        << name;
  }
}

// ---- Cancellation at any moment
// --------------------------------------------------------------------------------------
TEST(CallTest, CancellingAtAnyMomentLeavesTheBooksExact) {
  Rig rig;
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  const auto calls = EveryMethod(worker.lease());
  for (int round = 0; round < 60; ++round) {
    for (const auto& [name, call] : calls) {
      if (name == "Hold") continue;  // a newer one ends the one that we have
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::microseconds(round * 50));
      EXPECT_THAT(call(worker.stub(), context).error_code(),
                  AnyOf(grpc::StatusCode::OK, grpc::StatusCode::DEADLINE_EXCEEDED, grpc::StatusCode::CANCELLED,
                        grpc::StatusCode::NOT_FOUND))
          << name;
    }
  }
  rig.GetStatus();
  worker.Detach();
  worker.HangUp();
  const v1::GetStatusResponse status = rig.AwaitNoLeases();
  EXPECT_EQ(status.ledger().free_bytes(), status.ledger().arena_bytes());
}

// ---- The lease's life
// ------------------------------------------------------------------------------------------------
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

// ---- Drain
// -----------------------------------------------------------------------------------------------------------
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

// ---- The transport
// ---------------------------------------------------------------------------------------------------
TEST(TransportTest, AMessageOverTheLimitIsRefusedAndTheNextIsNot) {
  Rig rig({.message_bytes = 100'000});
  RawWorker worker(rig.fd_path(), rig.Workers());
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  v1::CreateSequenceRequest create;
  *create.mutable_lease() = worker.lease();
  create.set_sequence(1);
  create.set_max_tokens(64);
  create.mutable_residents()->set_positions(std::string(100'000, 'x'));
  v1::CreateSequenceResponse created;
  EXPECT_EQ(worker.stub().CreateSequence(Context().get(), create, &created).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  create.clear_residents();
  EXPECT_TRUE(worker.stub().CreateSequence(Context().get(), create, &created).ok());
}

// Bytes that are no message of ours never reach a handler.
TEST(TransportTest, GarbageInAFrameHarmsNobody) {
  Rig rig;
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(
      grpc::CreateChannel(rig.address(), grpc::InsecureChannelCredentials()));
  for (const std::string method :
       {"Attach", "CreateSequence", "Reserve", "Truncate", "Evict", "ReleaseSequence", "NoSuchMethod"}) {
    for (const std::string& bytes :
         {std::string("\xff\xff\xff\xff"), std::string(1000, '\x0a'), std::string(3, '\0')}) {
      const grpc::Slice slice(bytes);
      const grpc::ByteBuffer request(&slice, 1);
      grpc::ByteBuffer response;
      const auto context = Context();
      std::promise<grpc::StatusCode> code;
      stub.UnaryCall(context.get(), "/kvsteward.v1.Steward/" + method, {}, &request, &response,
                     [&code](const grpc::Status& status) { code.set_value(status.error_code()); });
      EXPECT_NE(code.get_future().get(), grpc::StatusCode::OK) << method;
    }
  }
  EXPECT_TRUE(rig.GetStatus().leases().empty());
}

TEST(TransportTest, ReflectionListsTheService) {
  Rig rig;
  grpc::GenericStub stub(grpc::CreateChannel(rig.address(), grpc::InsecureChannelCredentials()));
  grpc::CompletionQueue queue;
  const auto context = Context();
  const auto stream =
      stub.PrepareCall(context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto done = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  stream->StartCall(nullptr);
  ASSERT_TRUE(done());
  const grpc::Slice slice(std::string("\x3a\x00", 2));  // list_services: ""
  stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(done());
  grpc::ByteBuffer response;
  stream->Read(&response, nullptr);
  ASSERT_TRUE(done());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(response.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& part : slices) text.append(reinterpret_cast<const char*>(part.begin()), part.size());
  EXPECT_THAT(text, HasSubstr("kvsteward.v1.Steward"));
  context->TryCancel();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  EXPECT_TRUE(done());
  queue.Shutdown();
}

}  // namespace
}  // namespace kvsteward::rpc
