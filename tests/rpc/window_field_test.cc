// Windows, inputs and plans that the lease does not have.
#include <functional>
#include <string>

#include "tests/rpc/state_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;

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
  Refused(StatusCode::INVALID_ARGUMENT, "window has no query rows; signal softmax of policy snapkv reads them",
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
