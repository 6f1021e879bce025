// Observe: rows of queries go into a sequence's running scores, each once and in order, and an eviction later decides
// by them.
#include <cstring>
#include <string>
#include <vector>

#include "tests/rpc/state_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;
using ::testing::ElementsAre;

constexpr char kDecaying[] = "name: mine\nwindow: all\naccumulate: {running: {decay: 0.5}}\n";

class ObserveTest : public StateFieldTest {
 protected:
  // The first `written` tokens are there; the queries of the last `rows` of them ask for what `Notice` writes.
  static v1::ObserveSequence Rows(uint32_t written, uint32_t rows, const std::string& policy = "h2o") {
    v1::ObserveSequence item;
    item.set_sequence(kOurs);
    item.set_written_tokens(written);
    item.set_policy(policy);
    item.mutable_window()->set_rows(rows);
    item.mutable_window()->set_dtype(v1::D_TYPE_F32);
    std::vector<float> queries(size_t{2 * 4 * 8} * rows, 0.0f);
    for (size_t i = 0; i < queries.size(); i += 8) queries[i] = 20.0f;
    item.mutable_window()->set_inline_queries(
        std::string(reinterpret_cast<const char*>(queries.data()), queries.size() * sizeof(float)));
    return item;
  }

  // Writes the key that all queries ask for; other tokens' keys are zero.
  void Notice(uint32_t token) {
    const auto* table = reinterpret_cast<const kvs_sequence_table*>(
        worker_.Object(KVS_TABLES, ours_.table_chunk()).data() + ours_.table_offset());
    const uint64_t per_extent = worker_.attached().blocks_per_extent();
    for (uint32_t unit = 0; unit < table->units; ++unit) {
      const uint32_t block = kvs_current_row(table, unit)->block[token / KVS_BLOCK_TOKENS];
      const float one = 1.0f;
      std::memcpy(worker_.Object(KVS_EXTENT, static_cast<uint32_t>(block / per_extent)).data() +
                      block % per_extent * worker_.attached().block_bytes() +
                      size_t{token % KVS_BLOCK_TOKENS} * 8 * sizeof(float),
                  &one, sizeof(one));
    }
  }

  v1::EvictSequence WithoutRows() {
    v1::EvictSequence item = Ours("h2o");
    item.set_export_plan(true);
    return item;
  }
};

TEST_F(ObserveTest, AnEvictionDecidesByWhatWasObserved) {
  Notice(13);
  v1::EvictSequence early = WithoutRows();
  early.set_written_tokens(12);
  Refused(StatusCode::INVALID_ARGUMENT, "window has no query rows", [&] { return Evict(worker_, early); });
  v1::ObservedSequence observed;
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(12, 12), &observed)));
  EXPECT_EQ(observed.sequence(), kOurs);
  EXPECT_EQ(observed.observed_tokens(), 12u);
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(20, 8), &observed)));
  EXPECT_EQ(observed.observed_tokens(), 20u);

  // Half of ten are recent; of the others 13 is what the rows behind it looked at, the oldest what most rows saw.
  v1::EvictedSequence evicted;
  ASSERT_NO_FATAL_FAILURE(Accepted(Evict(worker_, WithoutRows(), &evicted)));
  for (uint32_t unit = 0; unit < 4; ++unit) {
    EXPECT_THAT(Kept(evicted, unit), ElementsAre(0, 1, 2, 3, 13, 15, 16, 17, 18, 19));
  }

  // The scores go with the tokens that stay: 13 is the fifth now.
  v1::ReserveSequence more = Room(kOurs, 24);
  more.set_written_tokens(20);
  ASSERT_NO_FATAL_FAILURE(Accepted(Reserve(worker_, more)));
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(24, 4), &observed)));
  EXPECT_EQ(observed.observed_tokens(), 24u);
  EXPECT_EQ(observed.version(), evicted.version());
  v1::EvictSequence again = WithoutRows();
  again.set_written_tokens(24);
  again.set_budget_tokens(2);
  ASSERT_NO_FATAL_FAILURE(Accepted(Evict(worker_, again, &evicted)));
  for (uint32_t unit = 0; unit < 4; ++unit) EXPECT_THAT(Kept(evicted, unit), ElementsAre(4, 13));
}

TEST_F(ObserveTest, RowsThatAreSkippedOrRepeatedAreAborted) {
  Refused(StatusCode::ABORTED, "window.positions has 8 where 0 comes next",
          [&] { return Observe(worker_, Rows(12, 4)); });
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(12, 12))));
  Refused(StatusCode::ABORTED, "window.positions has 0 where 12 comes next",
          [&] { return Observe(worker_, Rows(12, 12)); });
  Refused(StatusCode::ABORTED, "window.positions has 13 where 12 comes next",
          [&] { return Observe(worker_, Rows(16, 3)); });
  Refused(StatusCode::ABORTED, "window.positions has 14 where 13 comes next", [&] {
    v1::ObserveSequence item = Rows(16, 3);
    for (const uint32_t position : {12, 14, 15}) item.mutable_window()->add_positions(position);
    return Observe(worker_, item);
  });
  v1::ObservedSequence observed;
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(16, 4), &observed)));
  EXPECT_EQ(observed.observed_tokens(), 16u);
}

TEST_F(ObserveTest, ARepeatedOneIsReplayed) {
  v1::ObserveSequence item = Rows(12, 12);
  item.set_request_id(7);
  v1::ObservedSequence first;
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, item, &first)));
  v1::ObservedSequence again;
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, item, &again)));
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  v1::ObserveSequence other = Rows(20, 8);
  other.set_request_id(7);
  Refused(StatusCode::INVALID_ARGUMENT, "request_id 7 was used for another request of sequence 1",
          [&] { return Observe(worker_, other); });
}

TEST_F(ObserveTest, TruncateForgetsWhatWasObserved) {
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(20, 20))));
  ASSERT_NO_FATAL_FAILURE(Accepted(Truncate(worker_, kOurs, 15)));
  v1::ReserveSequence more = Room(kOurs, 20);
  more.set_written_tokens(15);
  ASSERT_NO_FATAL_FAILURE(Accepted(Reserve(worker_, more)));
  Refused(StatusCode::ABORTED, "window.positions has 16 where 15 comes next",
          [&] { return Observe(worker_, Rows(17, 1)); });
  v1::ObservedSequence observed;
  ASSERT_NO_FATAL_FAILURE(Accepted(Observe(worker_, Rows(17, 2), &observed)));
  EXPECT_EQ(observed.observed_tokens(), 17u);
}

TEST_F(ObserveTest, TheSequenceAndItsTokensMustBeThere) {
  for (const uint64_t sequence : {kTheirs, kMost}) {
    v1::ObserveSequence item = Rows(12, 12);
    item.set_sequence(sequence);
    Refused(StatusCode::NOT_FOUND, "sequence " + std::to_string(sequence) + " is unknown",
            [&] { return Observe(worker_, item); });
  }
  Refused(StatusCode::INVALID_ARGUMENT, "written_tokens is 21 but only 20 are reserved",
          [&] { return Observe(worker_, Rows(21, 21)); });
  Refused(StatusCode::INVALID_ARGUMENT, "window.inline_queries has", [&] {
    v1::ObserveSequence item = Rows(12, 12);
    item.mutable_window()->mutable_inline_queries()->append(4, '\0');
    return Observe(worker_, item);
  });
}

TEST_F(ObserveTest, ThePolicyMustBeOneThatAccumulatesAndStayTheSame) {
  Refused(StatusCode::INVALID_ARGUMENT, "policy snapkv keeps no running scores",
          [&] { return Observe(worker_, Rows(12, 12, "snapkv")); });
  Refused(StatusCode::INVALID_ARGUMENT, "policy snapkv keeps no running scores",
          [&] { return Observe(worker_, Rows(12, 12, "")); });  // the tenant's
  Accepted(Observe(worker_, Rows(12, 12)));
  Refused(StatusCode::INVALID_ARGUMENT, "policy mine has other stages signal, accumulate and group than policy h2o",
          [&] { return Observe(worker_, Rows(20, 8, kDecaying)); });
  Refused(StatusCode::INVALID_ARGUMENT, "policy mine has other stages", [&] {
    v1::EvictSequence item = WithoutRows();
    item.set_policy(kDecaying);
    return Evict(worker_, item);
  });
  Accepted(Observe(worker_, Rows(20, 8)));
}

TEST_F(ObserveTest, ASignalThatDependsOnTheBudgetNeedsOne) {
  const std::string policy = "name: mine\nwindow: all\nsignal: sg_softmax\naccumulate: running\n";
  Refused(StatusCode::INVALID_ARGUMENT, "budget", [&] { return Observe(worker_, Rows(12, 12, policy)); });
  v1::ObserveSequence item = Rows(12, 12, policy);
  item.set_budget_ppm(500'000);
  Accepted(Observe(worker_, item));
}

}  // namespace
}  // namespace kvsteward::rpc
