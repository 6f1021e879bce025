// The client against a sidecar that answers what the test wants: its promises to the caller, and that nothing a sidecar
// says makes it misbehave.
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvsteward/client.h"
#include "tests/client/fake_sidecar.h"
#include "tests/client/objects.h"

namespace kvsteward {
namespace {

using testing::FakeSidecar;
using ::testing::HasSubstr;
using testing::MakeObject;

std::unique_ptr<Client> Attached(const FakeSidecar& sidecar) {
  auto client = Client::Attach(sidecar.Options());
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

std::optional<Sequence> Created(Client& client, uint64_t id = 1) {
  auto sequence = client.CreateSequence(id, 64);
  EXPECT_TRUE(sequence.ok()) << sequence.status();
  return sequence.ok() ? std::optional<Sequence>(*std::move(sequence)) : std::nullopt;
}

void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

// The end of a lease reaches the client on its own; calls until then may still succeed.
absl::Status CallUntilItFails(Sequence& sequence) {
  for (int i = 0; i < 4000; ++i) {
    if (absl::Status status = sequence.Reserve(16); !status.ok()) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return absl::OkStatus();
}

TEST(Lease, AttachesMapsAndTests) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(client->lease_name(), "lease-1");
  EXPECT_EQ(client->backend(), "host");
  EXPECT_EQ(client->block_bytes(), 4096u);
  std::memset(client->WindowSlot(1), 7, client->window_slot_bytes());
  EXPECT_EQ(client->WindowSlot(2), nullptr);
  const std::vector<std::byte> statistics = sidecar.Contents(KVS_STATISTICS);
  for (uint8_t i = 0; i < 16; ++i) {
    EXPECT_EQ(statistics[KVS_SELF_TEST_OFFSET + i], static_cast<std::byte>(i ^ 0x5a));
  }
  EXPECT_EQ(statistics[4096 + 4 * 8 * 64 * 4], std::byte{7});
  EXPECT_EQ(statistics[4096 + 4 * 8 * 64 * 4 - 1], std::byte{0});
}

TEST(Lease, AddressesTokens) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  ASSERT_TRUE(sequence);
  EXPECT_EQ(sequence->Key(0, 0), nullptr);  // nothing is reserved
  ASSERT_TRUE(sequence->Reserve(10).ok());
  EXPECT_EQ(sequence->reserved(), 10u);
  EXPECT_EQ(sequence->Key(1, 9) - sequence->Key(1, 0), 9 * 64 * 2);
  EXPECT_EQ(sequence->Value(1, 3) - sequence->Key(1, 3), 2048);
  EXPECT_EQ(sequence->Key(1, 0) - sequence->Key(0, 0), 4096);
  EXPECT_EQ(sequence->Block(1), sequence->Key(1, 0));
  EXPECT_EQ(sequence->Row(1).size(), 1u);
  EXPECT_EQ(sequence->Row(1)[0], 1u);
  EXPECT_EQ(sequence->Key(1, 10), nullptr);
  EXPECT_EQ(sequence->Key(2, 0), nullptr);
  EXPECT_EQ(sequence->Residents(2), 0u);
  EXPECT_TRUE(sequence->Row(2).empty());
  EXPECT_EQ(sequence->Residents(0), 0u);
  ASSERT_TRUE(sequence->Wrote(7).ok());
  EXPECT_EQ(sequence->Residents(0), 7u);
}

TEST(Lease, WroteStaysWithinTheRoom) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  ASSERT_TRUE(sequence->Reserve(10).ok());
  EXPECT_TRUE(sequence->Wrote(5).ok());
  ExpectStatus(sequence->Wrote(11), absl::StatusCode::kInvalidArgument, "tokens is 11 where 5 are written");
  ExpectStatus(sequence->Wrote(4), absl::StatusCode::kInvalidArgument, "Truncate");
  EXPECT_EQ(sequence->written(), 5u);
}

TEST(Lease, ReleasesOnceAndDetachesLast) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto first = Created(*client, 1);
  auto second = Created(*client, 2);
  ASSERT_TRUE(first->Release().ok());
  ExpectStatus(first->Release(), absl::StatusCode::kFailedPrecondition, "sequence 1 was released");
  EXPECT_EQ(first->Key(0, 0), nullptr);
  first.reset();
  EXPECT_EQ(sidecar.releases(), 1);
  client.reset();
  EXPECT_TRUE(second->Reserve(3).ok());  // the lease lives as long as its last sequence
  second.reset();
  EXPECT_EQ(sidecar.releases(), 2);
  EXPECT_TRUE(sidecar.SawDetach());
}

// More objects than a socket's buffer holds arrive before the reply that speaks of them.
TEST(Lease, TakesManyExtentsAtOnce) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  sidecar.reserve = [&](const v1::ReserveRequest&, v1::ReserveResponse* response) {
    for (uint32_t index = 1; index < 1500; ++index) sidecar.SendNow(MakeObject(KVS_EXTENT, index, 8192));
    response->set_extents(1500);
    response->add_sequences()->set_sequence(1);
    return grpc::Status::OK;
  };
  ASSERT_TRUE(sequence->Reserve(10).ok());
  EXPECT_NE(sequence->Block(2999), nullptr);
  EXPECT_EQ(sequence->Block(3000), nullptr);
}

TEST(Lease, ReportsShortages) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto first = Created(*client, 1);
  auto second = Created(*client, 2);
  sidecar.reserve = [&](const v1::ReserveRequest& request, v1::ReserveResponse* response) {
    response->set_extents(1);
    for (const v1::ReserveSequence& item : request.sequences()) {
      v1::ReservedSequence* reply = response->add_sequences();
      reply->set_sequence(item.sequence());
      reply->set_reserved_tokens(item.total_tokens());
      if (item.sequence() != 2) continue;
      reply->mutable_outcome()->set_code(8);
      reply->mutable_outcome()->set_message("100 bytes are needed and 60 are free");
      reply->mutable_outcome()->mutable_shortage()->set_needed_bytes(100);
      reply->mutable_outcome()->mutable_shortage()->set_free_bytes(60);
    }
    return grpc::Status::OK;
  };
  Sequence* const both[] = {&*first, &*second};
  const uint32_t totals[] = {20, 30};
  auto statuses = client->Reserve(both, totals);
  ASSERT_TRUE(statuses.ok()) << statuses.status();
  EXPECT_TRUE((*statuses)[0].ok());
  ExpectStatus((*statuses)[1], absl::StatusCode::kResourceExhausted, "100 bytes are needed");
  EXPECT_FALSE(ShortageOf((*statuses)[0]));
  const std::optional<Shortage> shortage = ShortageOf((*statuses)[1]);
  ASSERT_TRUE(shortage);
  EXPECT_EQ(shortage->needed_bytes, 100u);
  EXPECT_EQ(shortage->free_bytes, 60u);
  EXPECT_EQ(first->reserved(), 20u);
  EXPECT_EQ(second->reserved(), 0u);
  ExpectStatus(client->Reserve(both, {totals, 1}).status(), absl::StatusCode::kInvalidArgument, "give one each");

  sidecar.reserve = [&](const v1::ReserveRequest&, v1::ReserveResponse*) {
    v1::Shortage details;
    details.set_retry_after_us(5);
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", details.SerializeAsString());
  };
  const std::optional<Shortage> whole = ShortageOf(first->Reserve(30));
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->retry_after.count(), 5);
}

TEST(Lease, TellsOfDraining) {
  FakeSidecar sidecar;
  std::atomic<bool> draining{false};
  ClientOptions options = sidecar.Options();
  options.on_draining = [&] {
    draining = true;
    draining.notify_all();
  };
  auto client = Client::Attach(options);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_FALSE(draining);
  sidecar.SayDraining();
  draining.wait(false);
}

// ---- The end of a lease
// ----------------------------------------------------------------------------------------------

TEST(LeaseEnd, ByTheSocket) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  sidecar.HangUp();
  ExpectStatus(CallUntilItFails(*sequence), absl::StatusCode::kUnavailable, "call Reattach()");
  EXPECT_EQ(client->CreateSequence(5, 5).status().code(), absl::StatusCode::kUnavailable);
}

TEST(LeaseEnd, ByTheHoldStream) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  sidecar.EndHold({grpc::StatusCode::ABORTED, "the lease was revoked"});
  ExpectStatus(CallUntilItFails(*sequence), absl::StatusCode::kUnavailable,
               "lease lease-1 has ended (the lease was revoked)");
}

TEST(LeaseEnd, ByDeathAndThenANewLease) {
  auto sidecar = std::make_unique<FakeSidecar>();
  auto client = Attached(*sidecar);
  auto sequence = Created(*client);
  ASSERT_TRUE(sequence->Reserve(16).ok());
  ASSERT_TRUE(sequence->Wrote(16).ok());
  std::memset(sequence->Key(0, 3), 0x77, 128);
  sidecar->HangUp();
  ExpectStatus(CallUntilItFails(*sequence), absl::StatusCode::kUnavailable, "call Reattach()");
  ExpectStatus(sequence->Truncate(3), absl::StatusCode::kUnavailable, "has ended");
  EXPECT_EQ(*sequence->Key(0, 3), std::byte{0x77});
  sidecar->attach.set_lease_name("lease-2");
  ASSERT_TRUE(client->Reattach().ok());
  ASSERT_TRUE(client->Reattach().ok());  // the lease is alive: nothing to do
  EXPECT_EQ(client->lease_name(), "lease-2");
  ExpectStatus(sequence->Reserve(17), absl::StatusCode::kFailedPrecondition, "gone with the sidecar's books");
  ExpectStatus(sequence->Wrote(16), absl::StatusCode::kFailedPrecondition, "lease-1");
  EXPECT_EQ(*sequence->Key(0, 3), std::byte{0x77});
  EXPECT_EQ(sequence->Residents(0), 16u);
  auto fresh = Created(*client);
  EXPECT_TRUE(fresh->Reserve(16).ok());
  Sequence* const both[] = {&*sequence, &*fresh};
  const uint32_t totals[] = {20, 20};
  auto statuses = client->Reserve(both, totals);
  ASSERT_TRUE(statuses.ok()) << statuses.status();
  EXPECT_EQ((*statuses)[0].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE((*statuses)[1].ok());
  sidecar->Die();
  sequence.reset();
  EXPECT_EQ(CallUntilItFails(*fresh).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client->Reattach().code(), absl::StatusCode::kUnavailable);
}

TEST(LeaseEnd, NobodyIsThere) {
  FakeSidecar sidecar;
  const ClientOptions options = sidecar.Options();
  sidecar.Die();
  EXPECT_EQ(Client::Attach(options).status().code(), absl::StatusCode::kUnavailable);
}

TEST(LeaseEnd, OnlyTheFdSocketAnswers) {
  FakeSidecar sidecar;
  ClientOptions options = sidecar.Options();
  options.address += ".not";
  options.call_timeout = std::chrono::seconds(1);
  ExpectStatus(Client::Attach(options).status(), absl::StatusCode::kUnavailable, "grpc.sock.not");
}

// ---- Sidecars that break the protocol
// --------------------------------------------------------------------------------

TEST(Hostile, AttachReplies) {
  const auto attach = [](auto change) {
    FakeSidecar sidecar;
    change(sidecar);
    ClientOptions options = sidecar.Options();
    if (sidecar.objects.empty()) options.call_timeout = std::chrono::seconds(1);
    return Client::Attach(options).status();
  };
  ExpectStatus(attach([](FakeSidecar& s) { s.attach.set_export_method("vmm"); }), absl::StatusCode::kFailedPrecondition,
               "shares memory by vmm");
  ExpectStatus(attach([](FakeSidecar& s) { s.attach.set_block_bytes(2048); }), absl::StatusCode::kInternal,
               "blocks have 2048 bytes where this geometry needs 4096");
  ExpectStatus(attach([](FakeSidecar& s) { s.attach.set_blocks_per_extent(3); }), absl::StatusCode::kInternal,
               "extents");
  ExpectStatus(attach([](FakeSidecar& s) { s.attach.set_window_slot_bytes(64); }), absl::StatusCode::kInternal,
               "window slots");
  ExpectStatus(attach([](FakeSidecar& s) { s.attach.set_window_slot_bytes(~uint64_t{63}); }),
               absl::StatusCode::kInternal, "window slots");
  ExpectStatus(attach([](FakeSidecar& s) { s.attach.set_statistics_bytes(4095); }), absl::StatusCode::kInternal,
               "statistics region of 4095");
  ExpectStatus(attach([](FakeSidecar& s) { s.objects.clear(); }), absl::StatusCode::kDeadlineExceeded,
               "not all arrived");
  ExpectStatus(attach([](FakeSidecar& s) { s.objects[1].bytes = 8192; }), absl::StatusCode::kInternal, "plan region");
  ExpectStatus(attach([](FakeSidecar& s) { s.objects[0] = MakeObject(KVS_STATISTICS, 0, 4096); }),
               absl::StatusCode::kInternal, "statistics region");
}

TEST(Hostile, HoldReplies) {
  FakeSidecar sidecar;
  sidecar.hold = [] { return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the self-test failed"); };
  ExpectStatus(Client::Attach(sidecar.Options()).status(), absl::StatusCode::kFailedPrecondition, "self-test failed");
  sidecar.hold = [] { return grpc::Status::OK; };
  ExpectStatus(Client::Attach(sidecar.Options()).status(), absl::StatusCode::kUnavailable, "Hold");
}

TEST(Hostile, CreateReplies) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  const v1::CreateSequenceResponse honest = sidecar.create;
  sidecar.create.set_table_chunk(1);
  ExpectStatus(client->CreateSequence(1, 64).status(), absl::StatusCode::kInternal, "chunk 1 of 1");
  sidecar.create = honest;
  for (const uint64_t offset : {uint64_t{0}, uint64_t{65}, uint64_t{128}, uint64_t{4096}, ~uint64_t{63}}) {
    sidecar.create.set_table_offset(offset);
    EXPECT_EQ(client->CreateSequence(1, 64).status().code(), absl::StatusCode::kInternal) << offset;
  }
  EXPECT_EQ(sidecar.releases(), 6);  // what cannot be used is not kept
  sidecar.create = honest;
  EXPECT_TRUE(Created(*client));
}

TEST(Hostile, MemoryThatNeverComes) {
  FakeSidecar sidecar;
  ClientOptions options = sidecar.Options();
  options.call_timeout = std::chrono::seconds(1);
  auto client = Client::Attach(options);
  ASSERT_TRUE(client.ok()) << client.status();
  auto sequence = Created(**client);
  sidecar.create.set_extents(~0u);
  EXPECT_EQ((*client)->CreateSequence(2, 64).status().code(), absl::StatusCode::kDeadlineExceeded);
  ExpectStatus(sequence->Reserve(5), absl::StatusCode::kUnavailable, "not all arrived");
}

TEST(Hostile, ObjectsInBetween) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  sidecar.SendNow(MakeObject(KVS_EXTENT, 0, 8192));
  ExpectStatus(CallUntilItFails(*sequence), absl::StatusCode::kUnavailable, "extent 0 came twice");
}

TEST(Hostile, ReserveReplies) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  const auto answer = [&](auto fill) {
    sidecar.reserve = [fill](const v1::ReserveRequest&, v1::ReserveResponse* response) {
      response->set_extents(1);
      fill(*response);
      return grpc::Status::OK;
    };
    return sequence->Reserve(10);
  };
  EXPECT_EQ(answer([](v1::ReserveResponse&) {}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::ReserveResponse& r) { r.add_sequences()->set_sequence(2); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::ReserveResponse& r) {
              r.add_sequences()->set_sequence(1);
              r.mutable_sequences(0)->mutable_outcome()->set_code(12345);
            }).code(),
            absl::StatusCode::kUnknown);
  EXPECT_TRUE(answer([](v1::ReserveResponse& r) {
                r.add_sequences()->set_sequence(1);
                r.mutable_sequences(0)->set_reserved_tokens(~0u);
              }).ok());
  EXPECT_EQ(sequence->reserved(), 64u);      // not beyond max_tokens
  EXPECT_EQ(sequence->Key(0, 16), nullptr);  // and not beyond its blocks
}

TEST(Hostile, EvictReplies) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  ASSERT_TRUE(sequence->Reserve(12).ok());
  ASSERT_TRUE(sequence->Wrote(10).ok());
  const auto answer = [&](auto change) {
    sidecar.evict = [change](const v1::EvictRequest& request, v1::EvictResponse* response) {
      v1::EvictedSequence* reply = response->add_sequences();
      reply->set_sequence(request.sequences(0).sequence());
      for (int unit = 0; unit < 2; ++unit) {
        reply->add_lengths(10);
        reply->add_kept(10);
      }
      reply->set_no_op(true);
      reply->set_version(1);
      change(*response);
      return grpc::Status::OK;
    };
    EvictOptions options;
    options.budget_tokens = 10;
    return sequence->Evict(options).status();
  };
  EXPECT_TRUE(answer([](v1::EvictResponse&) {}).ok());
  EXPECT_EQ(sequence->reserved(), 12u);
  EXPECT_EQ(answer([](v1::EvictResponse& r) { r.clear_sequences(); }).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::EvictResponse& r) { r.mutable_sequences(0)->set_sequence(7); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::EvictResponse& r) { r.mutable_sequences(0)->add_kept(7); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::EvictResponse& r) {
              r.mutable_sequences(0)->set_plan_offset(4096);
              r.mutable_sequences(0)->set_plan_bytes(64);
            }).code(),
            absl::StatusCode::kInternal);
  // Rows were settled: what is beyond the written tokens is the sequence's no more.
  EXPECT_TRUE(answer([](v1::EvictResponse& r) { r.mutable_sequences(0)->set_version(2); }).ok());
  EXPECT_EQ(sequence->version(), 2u);
  EXPECT_EQ(sequence->reserved(), 10u);
  EXPECT_EQ(sequence->Key(0, 10), nullptr);
}

TEST(Lease, EvictWantsOneBudget) {
  FakeSidecar sidecar;
  auto client = Attached(sidecar);
  auto sequence = Created(*client);
  EvictOptions options;
  ExpectStatus(sequence->Evict(options).status(), absl::StatusCode::kInvalidArgument, "has 0 budgets");
  options.budget_ppm = 1;
  options.budget_bytes = 1;
  ExpectStatus(sequence->Evict(options).status(), absl::StatusCode::kInvalidArgument, "has 2 budgets");
}

}  // namespace
}  // namespace kvsteward
