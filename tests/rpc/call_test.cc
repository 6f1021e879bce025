// The life of calls: cancellation, shutdown, limits of the transport.
#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/rpc/every_method.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

using Milliseconds = std::chrono::milliseconds;
v1::Lease SomeLease() {
  v1::Lease lease;
  lease.set_key(std::string(16, 'k'));
  lease.set_epoch(1);
  return lease;
}

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
                        grpc::StatusCode::NOT_FOUND,
                        grpc::StatusCode::FAILED_PRECONDITION))  // busy: a cancelled call's job is still ending
          << name;
    }
  }
  rig.GetStatus();
  worker.Detach();
  worker.HangUp();
  const v1::GetStatusResponse status = rig.AwaitNoLeases();
  EXPECT_EQ(status.ledger().free_bytes(), status.ledger().arena_bytes());
}

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
       {"Attach", "CreateSequence", "Reserve", "Truncate", "Observe", "Evict", "ReleaseSequence", "NoSuchMethod"}) {
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
