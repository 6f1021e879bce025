// Repeated calls: the reply of then, though the sequence has moved on; another body with the same id is refused.
#include <string>

#include "tests/rpc/state_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;

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

}  // namespace
}  // namespace kvsteward::rpc
