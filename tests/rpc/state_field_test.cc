// Names, tokens, versions and budgets that the sidecar's state refuses.
#include <functional>
#include <string>

#include "tests/rpc/state_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;

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

}  // namespace
}  // namespace kvsteward::rpc
