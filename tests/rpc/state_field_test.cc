// What a field's shape does not show and only the sidecar's state does: names of others, repetitions, versions, rooms
// and windows that a lease does not have. Each refusal has its exact code and a sentence that names the field, and
// leaves every book, every lease and the other lease's sequence as they were.
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;
using ::testing::HasSubstr;

constexpr uint64_t kMost = ~uint64_t{0};
constexpr uint32_t kBillion = 1u << 30;
constexpr uint64_t kOurs = 1;               // the worker's sequence
constexpr uint64_t kTheirs = 2;             // the other worker's
constexpr char kBlind[] = "streaming-llm";  // a policy that reads no queries

struct Said {
  uint32_t code;
  std::string message;
};

Said ToSaid(const grpc::Status& status) { return {static_cast<uint32_t>(status.error_code()), status.error_message()}; }

// What a call of one sequence says: the call's own status, or the sequence's.
template <class Result>
Said ToSaid(const grpc::Status& status, const Result& result) {
  return status.ok() ? Said{result.outcome().code(), result.outcome().message()} : ToSaid(status);
}

Said Create(RawWorker& worker, uint64_t sequence, uint32_t max_tokens, v1::CreateSequenceResponse* response) {
  v1::CreateSequenceRequest request;
  *request.mutable_lease() = worker.lease();
  request.set_sequence(sequence);
  request.set_max_tokens(max_tokens);
  return ToSaid(worker.stub().CreateSequence(Context().get(), request, response));
}

v1::ReserveSequence Room(uint64_t sequence, uint32_t total_tokens, uint64_t request_id = 0) {
  v1::ReserveSequence item;
  item.set_sequence(sequence);
  item.set_total_tokens(total_tokens);
  item.set_request_id(request_id);
  return item;
}

Said Reserve(RawWorker& worker, const v1::ReserveSequence& item, v1::ReservedSequence* result = nullptr) {
  v1::ReserveRequest request;
  *request.mutable_lease() = worker.lease();
  *request.add_sequences() = item;
  v1::ReserveResponse response;
  const grpc::Status status = worker.stub().Reserve(Context().get(), request, &response);
  if (status.ok() && result != nullptr) *result = response.sequences(0);
  return ToSaid(status, status.ok() ? response.sequences(0) : v1::ReservedSequence());
}

Said Truncate(RawWorker& worker, uint64_t sequence, uint32_t tokens, uint64_t request_id = 0,
              v1::TruncateResponse* response = nullptr) {
  v1::TruncateRequest request;
  *request.mutable_lease() = worker.lease();
  request.set_sequence(sequence);
  request.set_request_id(request_id);
  request.set_tokens(tokens);
  v1::TruncateResponse unread;
  return ToSaid(worker.stub().Truncate(Context().get(), request, response != nullptr ? response : &unread));
}

Said Evict(RawWorker& worker, const v1::EvictSequence& item, v1::EvictedSequence* result = nullptr) {
  v1::EvictRequest request;
  *request.mutable_lease() = worker.lease();
  *request.add_sequences() = item;
  v1::EvictResponse response;
  const grpc::Status status = worker.stub().Evict(Context().get(), request, &response);
  if (status.ok() && result != nullptr) *result = response.sequences(0);
  return ToSaid(status, status.ok() ? response.sequences(0) : v1::EvictedSequence());
}

Said Release(RawWorker& worker, uint64_t sequence, uint64_t request_id = 0,
             v1::ReleaseSequenceResponse* response = nullptr) {
  v1::ReleaseSequenceRequest request;
  *request.mutable_lease() = worker.lease();
  request.set_sequence(sequence);
  request.set_request_id(request_id);
  v1::ReleaseSequenceResponse unread;
  return ToSaid(worker.stub().ReleaseSequence(Context().get(), request, response != nullptr ? response : &unread));
}

// Two live leases, each with a sequence of 64 tokens at most of which 20 are reserved: two blocks in each of 4 units.
class StateFieldTest : public ::testing::Test {
 protected:
  StateFieldTest() : worker_(rig_.fd_path(), rig_.Workers()), other_(rig_.fd_path(), rig_.Workers()) {}

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(worker_.Start());
    ASSERT_NO_FATAL_FAILURE(other_.Start());
    v1::CreateSequenceResponse ours;
    ASSERT_NO_FATAL_FAILURE(Accepted(Create(worker_, kOurs, 64, &ours)));
    ASSERT_NO_FATAL_FAILURE(Accepted(Create(other_, kTheirs, 64, &theirs_)));
    ASSERT_NO_FATAL_FAILURE(Accepted(Reserve(worker_, Room(kOurs, 20))));
    ASSERT_NO_FATAL_FAILURE(Accepted(Reserve(other_, Room(kTheirs, 20))));
  }

  static void Accepted(const Said& said) { ASSERT_EQ(said.code, 0u) << said.message; }

  // The other sequence's table as its worker sees it: header, words, rows.
  std::string TheirTable() {
    const std::byte* table = other_.Object(KVS_TABLES, theirs_.table_chunk()).data() + theirs_.table_offset();
    return std::string(reinterpret_cast<const char*>(table), kvs_table_bytes(4, 64 / KVS_BLOCK_TOKENS));
  }

  // The call is refused so, and nothing has changed: no part of the ledger, no tenant, no lease, no table.
  void Refused(StatusCode code, const std::string& says, const std::function<Said()>& call) {
    const std::string books = rig_.GetStatus().SerializeAsString();
    const std::string table = TheirTable();
    const Said said = call();
    EXPECT_EQ(said.code, static_cast<uint32_t>(code)) << says << " | " << said.message;
    EXPECT_THAT(said.message, HasSubstr(says));
    EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books) << says;
    EXPECT_EQ(TheirTable(), table) << says;
  }

  v1::EvictSequence Ours(const std::string& policy = kBlind) {
    v1::EvictSequence item;
    item.set_sequence(kOurs);
    item.set_written_tokens(20);
    item.set_policy(policy);
    item.set_budget_tokens(10);
    return item;
  }

  Rig rig_;
  RawWorker worker_;
  RawWorker other_;
  v1::CreateSequenceResponse theirs_;
};

// ---- Names ----------------------------------------------------------------------------------------------------------

TEST_F(StateFieldTest, AnUnknownSequenceOrAnotherLeasesIsNotFound) {
  for (const uint64_t sequence : {kTheirs, uint64_t{99}, kMost}) {
    const std::string says = "sequence " + std::to_string(sequence) + " is unknown";
    Refused(StatusCode::NOT_FOUND, says, [&] { return Reserve(worker_, Room(sequence, 20)); });
    Refused(StatusCode::NOT_FOUND, says, [&] { return Truncate(worker_, sequence, 0); });
    Refused(StatusCode::NOT_FOUND, says, [&] { return Release(worker_, sequence); });
    Refused(StatusCode::NOT_FOUND, says, [&] {
      v1::EvictSequence item = Ours();
      item.set_sequence(sequence);
      return Evict(worker_, item);
    });
  }
  // Ids are a lease's own: the same one here is another sequence, and its end is not the other's. The largest is an id.
  const std::string table = TheirTable();
  for (const uint64_t sequence : {kTheirs, kMost}) {
    v1::CreateSequenceResponse created;
    Accepted(Create(worker_, sequence, 64, &created));
    Accepted(Reserve(worker_, Room(sequence, 64)));
    Accepted(Release(worker_, sequence));
  }
  EXPECT_EQ(TheirTable(), table);
  v1::ReleaseSequenceResponse released;
  Accepted(Release(other_, kTheirs, 0, &released));
  EXPECT_EQ(released.blocks_freed(), 8u);
}

TEST_F(StateFieldTest, AnotherLeasesKeyNeedsItsEpoch) {
  v1::Lease mixed = other_.lease();
  mixed.set_epoch(worker_.lease().epoch());
  ASSERT_NE(mixed.epoch(), other_.lease().epoch());
  const auto refused = [&](auto request, auto response, auto method) {
    *request.mutable_lease() = mixed;
    Refused(StatusCode::ABORTED, "lease.epoch is " + std::to_string(mixed.epoch()),
            [&] { return ToSaid((worker_.stub().*method)(Context().get(), request, &response)); });
  };
  v1::CreateSequenceRequest create;
  create.set_sequence(7);
  create.set_max_tokens(64);
  refused(create, v1::CreateSequenceResponse(), &v1::Steward::Stub::CreateSequence);
  v1::ReserveRequest reserve;
  *reserve.add_sequences() = Room(kTheirs, 40);
  refused(reserve, v1::ReserveResponse(), &v1::Steward::Stub::Reserve);
  v1::TruncateRequest truncate;
  truncate.set_sequence(kTheirs);
  refused(truncate, v1::TruncateResponse(), &v1::Steward::Stub::Truncate);
  v1::EvictRequest evict;
  *evict.add_sequences() = Ours();
  evict.mutable_sequences(0)->set_sequence(kTheirs);
  refused(evict, v1::EvictResponse(), &v1::Steward::Stub::Evict);
  v1::ReleaseSequenceRequest release;
  release.set_sequence(kTheirs);
  refused(release, v1::ReleaseSequenceResponse(), &v1::Steward::Stub::ReleaseSequence);
  Refused(StatusCode::ABORTED, "lease.epoch is", [&] {
    v1::HoldRequest request;
    *request.mutable_lease() = mixed;
    const auto context = Context();
    return ToSaid(worker_.stub().Hold(context.get(), request)->Finish());
  });
  // Nor did that Hold take over the other's stream.
  rig_.steward().Post(core::DrainAsked{});
  EXPECT_EQ(other_.NextNotice(), v1::HoldResponse::NOTICE_DRAINING);
}

// ---- Repetitions: the reply of then, though the sequence has moved on; another body is refused
// -----------------------

TEST_F(StateFieldTest, ARepeatedReserveIsReplayed) {
  v1::ReservedSequence first;
  Accepted(Reserve(worker_, Room(kOurs, 30, 5), &first));
  EXPECT_EQ(first.reserved_tokens(), 30u);
  Accepted(Reserve(worker_, Room(kOurs, 50)));
  const std::string books = rig_.GetStatus().SerializeAsString();
  v1::ReservedSequence again;
  Accepted(Reserve(worker_, Room(kOurs, 30, 5), &again));
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
  const std::string says = "request_id 5 was used for another request of sequence 1";
  Refused(StatusCode::INVALID_ARGUMENT, says, [&] { return Reserve(worker_, Room(kOurs, 60, 5)); });
  Refused(StatusCode::INVALID_ARGUMENT, says, [&] { return Truncate(worker_, kOurs, 0, 5); });
  Refused(StatusCode::INVALID_ARGUMENT, says, [&] {
    v1::EvictSequence item = Ours();
    item.set_request_id(5);
    return Evict(worker_, item);
  });
  Accepted(Reserve(worker_, Room(kOurs, 60, kMost)));
  Refused(StatusCode::INVALID_ARGUMENT, "request_id 18446744073709551615 was used",
          [&] { return Reserve(worker_, Room(kOurs, 61, kMost)); });
}

TEST_F(StateFieldTest, ARepeatedTruncateIsReplayed) {
  v1::TruncateResponse first;
  Accepted(Truncate(worker_, kOurs, 10, 6, &first));
  EXPECT_EQ(first.tokens(), 10u);
  v1::ReserveSequence more = Room(kOurs, 40);
  more.set_written_tokens(10);
  Accepted(Reserve(worker_, more));
  const std::string books = rig_.GetStatus().SerializeAsString();
  v1::TruncateResponse again;
  Accepted(Truncate(worker_, kOurs, 10, 6, &again));
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
  Refused(StatusCode::INVALID_ARGUMENT, "request_id 6 was used for another request of sequence 1",
          [&] { return Truncate(worker_, kOurs, 0, 6); });
}

TEST_F(StateFieldTest, ARepeatedEvictIsReplayed) {
  v1::EvictSequence item = Ours();
  item.set_request_id(7);
  v1::EvictedSequence first;
  Accepted(Evict(worker_, item, &first));
  EXPECT_EQ(first.blocks_freed(), 4u);
  const std::string books = rig_.GetStatus().SerializeAsString();
  v1::EvictedSequence again;
  Accepted(Evict(worker_, item, &again));
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
  item.set_budget_tokens(9);
  Refused(StatusCode::INVALID_ARGUMENT, "request_id 7 was used for another request of sequence 1",
          [&] { return Evict(worker_, item); });
}

TEST_F(StateFieldTest, ARepeatedReleaseIsReplayed) {
  v1::ReleaseSequenceResponse first;
  Accepted(Release(worker_, kOurs, 8, &first));
  EXPECT_EQ(first.blocks_freed(), 8u);
  v1::CreateSequenceResponse created;
  Accepted(Create(worker_, kOurs, 64, &created));  // a new one of that id is not the one that was released
  const std::string books = rig_.GetStatus().SerializeAsString();
  v1::ReleaseSequenceResponse again;
  Accepted(Release(worker_, kOurs, 8, &again));
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
  Refused(StatusCode::INVALID_ARGUMENT, "request_id 8 was used for another release",
          [&] { return Release(worker_, 3, 8); });
}

TEST_F(StateFieldTest, ARepeatedCreateSequenceIsReplayed) {
  const std::string books = rig_.GetStatus().SerializeAsString();
  v1::CreateSequenceResponse again;
  Accepted(Create(other_, kTheirs, 64, &again));
  EXPECT_EQ(again.SerializeAsString(), theirs_.SerializeAsString());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
  Refused(StatusCode::INVALID_ARGUMENT, "sequence 2 exists and was created otherwise",
          [&] { return Create(other_, kTheirs, 65, &again); });
}

TEST_F(StateFieldTest, ARepeatedAttachIsReplayed) {
  v1::AttachRequest request = RawWorker::SmallGeometry();
  request.set_ticket(worker_.ticket());
  const std::string books = rig_.GetStatus().SerializeAsString();
  v1::AttachResponse again;
  Accepted(ToSaid(worker_.stub().Attach(Context().get(), request, &again)));
  EXPECT_EQ(again.SerializeAsString(), worker_.attached().SerializeAsString());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
  request.mutable_geometry()->set_layers(3);
  Refused(StatusCode::INVALID_ARGUMENT, "geometry differs from this ticket's first Attach",
          [&] { return ToSaid(worker_.stub().Attach(Context().get(), request, &again)); });
}

// ---- Tokens, versions, budgets
// ---------------------------------------------------------------------------------------

TEST_F(StateFieldTest, TokensBeyondTheSequencesRoom) {
  Refused(StatusCode::INVALID_ARGUMENT, "total_tokens is 65; it must be 0 to the sequence's max_tokens, 64",
          [&] { return Reserve(worker_, Room(kOurs, 65)); });
  Refused(StatusCode::INVALID_ARGUMENT, "total_tokens is 1073741824",
          [&] { return Reserve(worker_, Room(kOurs, kBillion)); });
  Refused(StatusCode::INVALID_ARGUMENT, "written_tokens is 21 but only 20 are reserved", [&] {
    v1::ReserveSequence item = Room(kOurs, 40);
    item.set_written_tokens(21);
    return Reserve(worker_, item);
  });
  Refused(StatusCode::INVALID_ARGUMENT, "tokens is 21; it must be 0 to the tokens reserved, 20",
          [&] { return Truncate(worker_, kOurs, 21); });
  Refused(StatusCode::INVALID_ARGUMENT, "tokens is 1073741824", [&] { return Truncate(worker_, kOurs, kBillion); });
  Refused(StatusCode::INVALID_ARGUMENT, "written_tokens is 1073741824 but only 20 are reserved", [&] {
    v1::EvictSequence item = Ours();
    item.set_written_tokens(kBillion);
    return Evict(worker_, item);
  });
  Accepted(Evict(worker_, Ours()));
  Refused(StatusCode::INVALID_ARGUMENT, "written_tokens is 19 after 20 were written", [&] {
    v1::EvictSequence item = Ours();
    item.set_written_tokens(19);
    return Evict(worker_, item);
  });
  Refused(StatusCode::FAILED_PRECONDITION, "tokens is 19 but tokens below 20 went through an eviction",
          [&] { return Truncate(worker_, kOurs, 19); });
  // The largest sequence is well-formed; its table alone is more than this arena.
  Refused(StatusCode::RESOURCE_EXHAUSTED, "", [&] {
    v1::CreateSequenceResponse created;
    return Create(worker_, 3, kBillion, &created);
  });
}

TEST_F(StateFieldTest, ThePreconditionOnTheVersion) {
  v1::EvictSequence item = Ours();
  v1::EvictedSequence planned;
  item.set_plan_only(true);
  Accepted(Evict(worker_, item, &planned));
  item.set_plan_only(false);
  for (const uint64_t wrong : {planned.version() + 1, planned.version() - 1, kMost}) {
    item.set_if_version(wrong);
    Refused(StatusCode::ABORTED, "if_version is " + std::to_string(wrong) + " but the sequence's version is",
            [&] { return Evict(worker_, item); });
  }
  item.set_if_version(planned.version());
  v1::EvictedSequence evicted;
  Accepted(Evict(worker_, item, &evicted));
  EXPECT_GT(evicted.version(), planned.version());
  Refused(StatusCode::ABORTED, "if_version is", [&] { return Evict(worker_, item); });
}

TEST_F(StateFieldTest, BudgetsAtTheirEnds) {
  const auto with = [&](const std::function<void(v1::EvictSequence&)>& set) {
    v1::EvictSequence item = Ours();
    item.set_plan_only(true);
    set(item);
    return item;
  };
  const auto refused = [&](const std::string& says, const std::function<void(v1::EvictSequence&)>& set) {
    Refused(StatusCode::INVALID_ARGUMENT, says, [&] { return Evict(worker_, with(set)); });
  };
  refused("sequences[0].budget_tokens is 0; it must be 1 to", [](auto& item) { item.set_budget_tokens(0); });
  refused("sequences[0].budget_tokens is 4294967295", [](auto& item) { item.set_budget_tokens(~0u); });
  refused("sequences[0].budget_ppm is 0; it must be 1 to 1000000", [](auto& item) { item.set_budget_ppm(0); });
  refused("sequences[0].budget_ppm is 1000001", [](auto& item) { item.set_budget_ppm(1'000'001); });
  refused("sequences[0].budget_ppm is 4294967295", [](auto& item) { item.set_budget_ppm(~0u); });
  refused("budget is 0.0001%, which is no token of the 20 seen", [](auto& item) { item.set_budget_ppm(1); });
  refused("sequences[0].budget_bytes is 0; it must be 1 to", [](auto& item) { item.set_budget_bytes(0); });
  refused("sequences[0].budget_bytes is 4611686018427387905",
          [](auto& item) { item.set_budget_bytes((1ull << 62) + 1); });
  refused("sequences[0].budget_bytes is 18446744073709551615", [](auto& item) { item.set_budget_bytes(kMost); });

  // The least of each kind is well-formed, and less than what the policy protects: four sinks in each of four units.
  const std::string protects = "budget is 1 tokens per kv head, 4 in all; policy streaming-llm protects 16";
  refused(protects, [](auto& item) { item.set_budget_tokens(1); });
  refused(protects, [](auto& item) { item.set_budget_ppm(50'000); });
  refused(protects, [](auto& item) { item.set_budget_bytes(1); });

  const auto budget = [&](const std::function<void(v1::EvictSequence&)>& set) {
    const std::string books = rig_.GetStatus().SerializeAsString();
    v1::EvictedSequence planned;
    Accepted(Evict(worker_, with(set), &planned));
    EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books);
    return planned.budget_tokens();
  };
  EXPECT_EQ(budget([](auto& item) { item.set_budget_tokens(5); }), 5u);
  EXPECT_EQ(budget([](auto& item) { item.set_budget_tokens(kBillion); }), kBillion);
  EXPECT_EQ(budget([](auto& item) { item.set_budget_ppm(1'000'000); }), 20u);
  EXPECT_EQ(budget([](auto& item) { item.set_budget_ppm(250'000); }), 5u);
  EXPECT_GE(budget([](auto& item) { item.set_budget_bytes(1ull << 62); }), kBillion);
}

// ---- Windows
// ---------------------------------------------------------------------------------------------------------

TEST_F(StateFieldTest, AWindowThatTheLeaseDoesNotHave) {
  const auto with = [&](const std::function<void(v1::Window&)>& change) {
    v1::EvictSequence item = Ours("snapkv");
    item.set_budget_tokens(40);  // above what it protects
    item.mutable_window()->set_rows(4);
    item.mutable_window()->set_dtype(v1::D_TYPE_F32);
    item.mutable_window()->set_slot(0);
    change(*item.mutable_window());
    return item;
  };
  const auto refused = [&](const std::string& says, const std::function<void(v1::Window&)>& change) {
    Refused(StatusCode::INVALID_ARGUMENT, says, [&] { return Evict(worker_, with(change)); });
  };
  Refused(StatusCode::INVALID_ARGUMENT, "window has no query rows; policy snapkv needs at least 1",
          [&] { return Evict(worker_, Ours("snapkv")); });
  refused("window.slot is 1; it must be below the 1 that Attach named", [](v1::Window& w) { w.set_slot(1); });
  refused("window.slot is 1023; it must be below the 1 that Attach named", [](v1::Window& w) { w.set_slot(1023); });
  refused("window.slot is 4294967295; it must be 0 to 1023", [](v1::Window& w) { w.set_slot(~0u); });
  refused("window.rows is 5; it must be at most the 4 that Attach named", [](v1::Window& w) { w.set_rows(5); });
  refused("window.rows is 20; it must be at most the 4 that Attach named", [](v1::Window& w) { w.set_rows(20); });
  refused("window.rows is 4294967295; it must be 1 to 4096", [](v1::Window& w) { w.set_rows(~0u); });
  // [2, 4, 4, 8] of 4 bytes.
  for (const size_t bytes : {size_t{1}, size_t{1023}, size_t{1025}, size_t{1} << 20}) {
    refused("window.inline_queries has " + std::to_string(bytes) + " bytes",
            [&](v1::Window& w) { w.set_inline_queries(std::string(bytes, '\0')); });
  }
  refused("of its dtype needs 512", [](v1::Window& w) {
    w.set_dtype(v1::D_TYPE_F16);
    w.set_inline_queries(std::string(1024, '\0'));
  });
  refused("of its dtype needs 768", [](v1::Window& w) {
    w.set_rows(3);
    w.set_inline_queries(std::string(1024, '\0'));
  });
  Accepted(Evict(worker_, with([](v1::Window& w) { w.set_inline_queries(std::string(1024, '\0')); })));
  Accepted(Evict(worker_, with([](v1::Window&) {})));
}

// ---- Plans
// -----------------------------------------------------------------------------------------------------------

TEST_F(StateFieldTest, APlanNeedsItsRegion) {
  RawWorker planless(rig_.fd_path(), rig_.Workers());
  v1::AttachRequest attach = RawWorker::SmallGeometry();
  attach.set_plan_bytes(0);
  Accepted(ToSaid(planless.Attach(attach)));
  Accepted(ToSaid(planless.Hold()));
  v1::CreateSequenceResponse created;
  Accepted(Create(planless, kOurs, 64, &created));
  Accepted(Reserve(planless, Room(kOurs, 20)));
  v1::EvictSequence item = Ours();
  item.set_export_plan(true);
  Refused(StatusCode::FAILED_PRECONDITION, "export_plan needs a plan region; ask for plan_bytes in Attach",
          [&] { return Evict(planless, item); });
  item.set_export_plan(false);
  Accepted(Evict(planless, item));
}

TEST_F(StateFieldTest, APlanThatDoesNotFitItsRegion) {
  v1::CreateSequenceResponse created;
  Accepted(Create(worker_, 3, 1024, &created));
  Accepted(Reserve(worker_, Room(3, 1024)));
  v1::EvictSequence item = Ours();
  item.set_sequence(3);
  item.set_written_tokens(1024);
  item.set_export_plan(true);
  v1::EvictedSequence result;
  Refused(StatusCode::RESOURCE_EXHAUSTED, "ask for more plan_bytes in Attach",
          [&] { return Evict(worker_, item, &result); });
  // 4 units with a mask of 128 bytes and an index list of 4 KiB; the region has 8 KiB, less its header.
  EXPECT_EQ(result.outcome().shortage().needed_bytes(), 64u + 128 + 4 * (128 + 4096));
  EXPECT_EQ(result.outcome().shortage().free_bytes(), 8192u - 64);
  EXPECT_EQ(result.plan_bytes(), 0u);
  item.set_export_scores(true);
  Refused(StatusCode::RESOURCE_EXHAUSTED, "ask for more plan_bytes in Attach", [&] { return Evict(worker_, item); });
  item = Ours();
  item.set_export_plan(true);
  Accepted(Evict(worker_, item, &result));  // a smaller one does
  EXPECT_GT(result.plan_bytes(), 0u);
}

}  // namespace
}  // namespace kvsteward::rpc
