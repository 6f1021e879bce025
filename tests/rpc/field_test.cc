// Every field of every message, missing, zero, too large, of the wrong length or contradicting another: the exact code
// and a sentence that names the field; the daemon lives and its books are what they were.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kBillion = 1u << 30;

template <class Request>
struct Broken {
  std::function<void(Request&)> change;  // of a request that is right
  std::string says;
};

class FieldTest : public ::testing::Test {
 protected:
  FieldTest() : worker_(rig_.fd_path(), rig_.Workers()) {}

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(worker_.Start());
    v1::CreateSequenceRequest create;
    *create.mutable_lease() = worker_.lease();
    create.set_sequence(1);
    create.set_max_tokens(64);
    v1::CreateSequenceResponse created;
    const grpc::Status status = worker_.stub().CreateSequence(Context().get(), create, &created);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  // `call` sends a request; each broken one must be refused and change nothing. The request itself must be right.
  template <class Request>
  void RefuseAll(const Request& right, const std::vector<Broken<Request>>& cases,
                 const std::function<grpc::Status(const Request&)>& call) {
    const std::string before = rig_.GetStatus().SerializeAsString();
    for (const Broken<Request>& broken : cases) {
      Request request = right;
      broken.change(request);
      const grpc::Status status = call(request);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << broken.says;
      EXPECT_THAT(status.error_message(), HasSubstr(broken.says));
      EXPECT_EQ(rig_.GetStatus().SerializeAsString(), before) << broken.says;
    }
    const grpc::Status status = call(right);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  // What every request with a lease can have wrong with it.
  template <class Request>
  static std::vector<Broken<Request>> LeaseCases() {
    return {{[](Request& r) { r.clear_lease(); }, "lease is missing; send the lease that Attach returned"},
            {[](Request& r) { r.mutable_lease()->clear_key(); }, "lease.key is 0 bytes long; it must be 16 bytes long"},
            {[](Request& r) { r.mutable_lease()->mutable_key()->pop_back(); }, "lease.key is 15 bytes long"},
            {[](Request& r) { r.mutable_lease()->mutable_key()->append(100'000, 'x'); }, "lease.key is 100016 bytes"}};
  }

  // Leases that are none of ours.
  template <class Request>
  void ForeignLeases(const Request& right, const std::function<grpc::Status(const Request&)>& call) {
    const std::string before = rig_.GetStatus().SerializeAsString();
    const auto refused = [&](const Request& request, grpc::StatusCode code, const std::string& says) {
      const grpc::Status status = call(request);
      EXPECT_EQ(status.error_code(), code) << says;
      EXPECT_THAT(status.error_message(), HasSubstr(says));
      EXPECT_EQ(rig_.GetStatus().SerializeAsString(), before) << says;
    };
    Request foreign = right;
    foreign.mutable_lease()->set_key(std::string(16, 'x'));
    refused(foreign, grpc::StatusCode::NOT_FOUND, "lease.key is of no lease");
    foreign.mutable_lease()->set_epoch(1);
    refused(foreign, grpc::StatusCode::ABORTED, "the sidecar was restarted; attach again");
    Request stale = right;
    stale.mutable_lease()->clear_epoch();
    refused(stale, grpc::StatusCode::ABORTED, "lease.epoch is 0");
    for (const uint64_t epoch : {right.lease().epoch() + 1, ~uint64_t{0}}) {
      stale.mutable_lease()->set_epoch(epoch);
      refused(stale, grpc::StatusCode::ABORTED, "lease.epoch is " + std::to_string(epoch));
    }
  }

  Rig rig_;
  RawWorker worker_;
};

TEST_F(FieldTest, Attach) {
  using R = v1::AttachRequest;
  RawWorker fresh(rig_.fd_path(), rig_.Workers());
  R right = RawWorker::SmallGeometry();
  right.set_ticket(fresh.ticket());
  const auto call = [&](const R& request) {
    v1::AttachResponse response;
    return fresh.stub().Attach(Context().get(), request, &response);
  };
  const auto geometry = [](void (v1::Geometry::*set)(uint32_t), uint32_t value) {
    return [=](R& r) { (r.mutable_geometry()->*set)(value); };
  };
  const std::string before = rig_.GetStatus().SerializeAsString();
  R unknown = right;
  unknown.set_ticket(std::string(16, 'x'));
  EXPECT_EQ(call(unknown).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), before);
  R large = right;
  large.set_plan_bytes(1ull << 33);
  const grpc::Status exhausted = call(large);
  EXPECT_EQ(exhausted.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  v1::Shortage shortage;
  EXPECT_TRUE(shortage.ParseFromString(exhausted.error_details()));
  EXPECT_GT(shortage.needed_bytes(), shortage.free_bytes());
  EXPECT_EQ(rig_.GetStatus().SerializeAsString(), before);
  RefuseAll<R>(right,
               {{[](R& r) { r.clear_ticket(); }, "ticket is 0 bytes long; it must be 16 bytes long"},
                {[](R& r) { r.mutable_ticket()->push_back('x'); }, "ticket is 17 bytes long"},
                {[](R& r) { r.clear_geometry(); }, "geometry is missing"},
                {geometry(&v1::Geometry::set_layers, 0), "geometry.layers is 0; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_layers, 1025), "geometry.layers is 1025; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_layers, ~0u), "geometry.layers is 4294967295"},
                {geometry(&v1::Geometry::set_query_heads, 0), "geometry.query_heads is 0; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_query_heads, 1026), "geometry.query_heads is 1026; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_query_heads, 3),
                 "geometry.query_heads is 3; it must be a multiple of geometry.kv_heads, 2"},
                {geometry(&v1::Geometry::set_kv_heads, 0), "geometry.kv_heads is 0; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_kv_heads, 2048), "geometry.kv_heads is 2048; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_kv_heads, 8),
                 "geometry.query_heads is 4; it must be a multiple of geometry.kv_heads, 8"},
                {geometry(&v1::Geometry::set_head_dim, 0), "geometry.head_dim is 0; it must be 1 to 1024"},
                {geometry(&v1::Geometry::set_head_dim, 1025), "geometry.head_dim is 1025"},
                {[](R& r) { r.mutable_geometry()->clear_dtype(); }, "geometry.dtype is 0; it must be D_TYPE_F32"},
                {[](R& r) { r.mutable_geometry()->set_dtype(static_cast<v1::DType>(4)); }, "geometry.dtype is 4"},
                {[](R& r) { r.mutable_geometry()->set_dtype(static_cast<v1::DType>(-1)); }, "geometry.dtype is -1"},
                {[](R& r) { r.set_window_rows(0); }, "window_rows is 0; it must be 1 to 4096"},
                {[](R& r) { r.set_window_rows(4097); }, "window_rows is 4097"},
                {[](R& r) { r.set_window_slots(1025); }, "window_slots is 1025; it must be 0 to 1024"},
                {[](R& r) { r.set_plan_bytes(~uint64_t{0}); }, "plan_bytes is 18446744073709551615; it must be 0 to"}},
               call);
}

TEST_F(FieldTest, Hold) {
  using R = v1::HoldRequest;
  R right;
  *right.mutable_lease() = worker_.lease();
  const auto call = [&](const R& request) {
    const auto context = Context();
    const auto stream = worker_.stub().Hold(context.get(), request);
    v1::HoldResponse response;
    if (!stream->Read(&response)) return stream->Finish();
    context->TryCancel();
    stream->Finish();
    return grpc::Status::OK;
  };
  ForeignLeases<R>(right, call);
  RefuseAll<R>(right, LeaseCases<R>(), call);
}

// 4 units; three residents of each at positions 0, 2 and 5 of 8 tokens seen.
v1::Residents SomeResidents() {
  v1::Residents residents;
  residents.set_seen_tokens(8);
  for (int unit = 0; unit < 4; ++unit) {
    residents.add_lengths(3);
    for (const int32_t position : {0, 2, 5}) {
      residents.mutable_positions()->append(reinterpret_cast<const char*>(&position), sizeof(position));
    }
  }
  return residents;
}

TEST_F(FieldTest, CreateSequence) {
  using R = v1::CreateSequenceRequest;
  R right;
  *right.mutable_lease() = worker_.lease();
  right.set_sequence(2);
  right.set_max_tokens(64);
  *right.mutable_residents() = SomeResidents();
  const auto call = [&](const R& request) {
    v1::CreateSequenceResponse response;
    return worker_.stub().CreateSequence(Context().get(), request, &response);
  };
  const auto position = [](size_t index, int32_t value) {
    return [=](R& r) {
      r.mutable_residents()->mutable_positions()->replace(index * 4, 4, reinterpret_cast<const char*>(&value), 4);
    };
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = LeaseCases<R>();
  const std::vector<Broken<R>> own = {
      {[](R& r) { r.set_sequence(0); }, "sequence is 0; it must be an id of the worker's own, not 0"},
      {[](R& r) { r.set_max_tokens(0); }, "max_tokens is 0; it must be 1 to 1073741824"},
      {[](R& r) { r.set_max_tokens(kBillion + 1); }, "max_tokens is 1073741825"},
      {[](R& r) { r.mutable_residents()->set_seen_tokens(0); }, "residents.seen_tokens is 0; it must be 1 to 64"},
      {[](R& r) { r.mutable_residents()->set_seen_tokens(65); }, "residents.seen_tokens is 65; it must be 1 to 64"},
      {[](R& r) { r.mutable_residents()->clear_lengths(); }, "residents.lengths is 0 items long"},
      {[](R& r) { r.mutable_residents()->set_lengths(1, 9); }, "residents.lengths[1] is 9; it must be at most"},
      {[](R& r) { r.mutable_residents()->set_lengths(1, ~0u); }, "residents.lengths[1] is 4294967295"},
      {[](R& r) { r.mutable_residents()->set_lengths(1, 4); }, "residents.positions is 48 bytes long"},
      {[](R& r) { r.mutable_residents()->clear_positions(); }, "residents.positions is 0 bytes long"},
      {[](R& r) { r.mutable_residents()->mutable_positions()->pop_back(); }, "residents.positions is 47 bytes long"},
      {position(0, -1), "residents.positions[0] is -1; it must be above the unit's position before it"},
      {position(4, 0), "residents.positions[4] is 0"},
      {position(11, 8), "residents.positions[11] is 8"},
      // Only core knows how many units there are.
      {[](R& r) { r.mutable_residents()->add_lengths(0); }, "lengths"},
  };
  cases.insert(cases.end(), own.begin(), own.end());
  RefuseAll<R>(right, cases, call);
}

TEST_F(FieldTest, Reserve) {
  using R = v1::ReserveRequest;
  R right;
  *right.mutable_lease() = worker_.lease();
  v1::ReserveSequence* item = right.add_sequences();
  item->set_sequence(1);
  item->set_total_tokens(20);
  const auto call = [&](const R& request) {
    v1::ReserveResponse response;
    const grpc::Status status = worker_.stub().Reserve(Context().get(), request, &response);
    EXPECT_TRUE(!status.ok() || response.sequences(0).outcome().code() == 0u) << response.ShortDebugString();
    return status;
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = LeaseCases<R>();
  const std::vector<Broken<R>> own = {
      {[](R& r) { r.clear_sequences(); }, "sequences is 0 items long; it must be 1 to 1024"},
      {[](R& r) {
         for (uint64_t i = 0; i < 1024; ++i) r.add_sequences()->set_sequence(i + 2);
       },
       "sequences is 1025 items long; it must be 1 to 1024"},
      {[](R& r) { r.mutable_sequences(0)->set_sequence(0); }, "sequences[0].sequence is 0"},
      {[](R& r) { r.add_sequences()->set_sequence(1); }, "sequences[1].sequence is 1 once more"},
      {[](R& r) { r.mutable_sequences(0)->set_total_tokens(kBillion + 1); }, "sequences[0].total_tokens is 1073741825"},
      {[](R& r) { r.mutable_sequences(0)->set_written_tokens(~0u); }, "sequences[0].written_tokens is 4294967295"}};
  cases.insert(cases.end(), own.begin(), own.end());
  RefuseAll<R>(right, cases, call);
}

TEST_F(FieldTest, Truncate) {
  using R = v1::TruncateRequest;
  R right;
  *right.mutable_lease() = worker_.lease();
  right.set_sequence(1);
  const auto call = [&](const R& request) {
    v1::TruncateResponse response;
    return worker_.stub().Truncate(Context().get(), request, &response);
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = LeaseCases<R>();
  cases.push_back({[](R& r) { r.set_sequence(0); }, "sequence is 0"});
  cases.push_back({[](R& r) { r.set_tokens(kBillion + 1); }, "tokens is 1073741825; it must be 0 to 1073741824"});
  RefuseAll<R>(right, cases, call);
}

TEST_F(FieldTest, ReleaseSequence) {
  using R = v1::ReleaseSequenceRequest;
  R right;
  *right.mutable_lease() = worker_.lease();
  right.set_sequence(1);
  const auto call = [&](const R& request) {
    v1::ReleaseSequenceResponse response;
    return worker_.stub().ReleaseSequence(Context().get(), request, &response);
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = LeaseCases<R>();
  cases.push_back({[](R& r) { r.set_sequence(0); }, "sequence is 0"});
  RefuseAll<R>(right, cases, call);
}

TEST_F(FieldTest, Evict) {
  using R = v1::EvictRequest;
  using S = v1::EvictSequence;
  v1::ReserveRequest reserve;
  *reserve.mutable_lease() = worker_.lease();
  reserve.add_sequences()->set_sequence(1);
  reserve.mutable_sequences(0)->set_total_tokens(20);
  v1::ReserveResponse reserved;
  ASSERT_TRUE(worker_.stub().Reserve(Context().get(), reserve, &reserved).ok());

  R right;
  *right.mutable_lease() = worker_.lease();
  S* item = right.add_sequences();
  item->set_sequence(1);
  item->set_written_tokens(20);
  item->set_budget_tokens(40);
  v1::Window* window = item->mutable_window();
  window->set_rows(4);
  window->set_dtype(v1::D_TYPE_F32);
  window->set_slot(0);
  const auto call = [&](const R& request) {
    v1::EvictResponse response;
    const grpc::Status status = worker_.stub().Evict(Context().get(), request, &response);
    EXPECT_TRUE(!status.ok() || response.sequences(0).outcome().code() == 0u) << response.ShortDebugString();
    return status;
  };
  const auto first = [](const std::function<void(S&)>& change) {
    return [=](R& r) { change(*r.mutable_sequences(0)); };
  };
  const auto queries = [](const std::function<void(v1::Window&)>& change) {
    return [=](R& r) { change(*r.mutable_sequences(0)->mutable_window()); };
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = LeaseCases<R>();
  const std::vector<Broken<R>> own = {
      {[](R& r) { r.clear_sequences(); }, "sequences is 0 items long; it must be 1 to 64"},
      {[](R& r) {
         for (uint64_t i = 0; i < 64; ++i) r.add_sequences()->set_sequence(i + 2);
       },
       "sequences is 65 items long; it must be 1 to 64"},
      {first([](S& s) { s.set_sequence(0); }), "sequences[0].sequence is 0"},
      {[](R& r) { *r.add_sequences() = r.sequences(0); }, "sequences[1].sequence is 1 once more"},
      {first([](S& s) { s.set_written_tokens(kBillion + 1); }), "sequences[0].written_tokens is 1073741825"},
      {first([](S& s) { s.set_policy("best"); }), "sequences[0].policy is refused: there is no policy 'best'"},
      {first([](S& s) { s.set_policy("name: [x"); }), "sequences[0].policy is refused: "},
      {first([](S& s) { s.set_policy("name: x\nwindow: 0\n"); }), "sequences[0].policy is refused: "},
      {first([](S& s) { s.set_policy(std::string(20'000, 'x')); }),
       "sequences[0].policy is refused: its text is 20000"},
      {first([](S& s) { s.clear_budget(); }), "sequences[0].budget is missing; set budget_tokens"},
      {first([](S& s) { s.set_budget_tokens(0); }), "sequences[0].budget_tokens is 0; it must be 1 to 1073741824"},
      {first([](S& s) { s.set_budget_tokens(~0u); }), "sequences[0].budget_tokens is 4294967295"},
      {first([](S& s) { s.set_budget_ppm(0); }), "sequences[0].budget_ppm is 0; it must be 1 to 1000000"},
      {first([](S& s) { s.set_budget_ppm(1'000'001); }), "sequences[0].budget_ppm is 1000001"},
      {first([](S& s) { s.set_budget_bytes(0); }), "sequences[0].budget_bytes is 0; it must be 1 to"},
      {first([](S& s) { s.set_budget_bytes(~uint64_t{0}); }), "sequences[0].budget_bytes is 18446744073709551615"},
      {first([](S& s) { s.set_export_scores(true); }), "sequences[0].export_scores is true; it must be false unless"},
      {queries([](v1::Window& w) { w.set_rows(0); }), "sequences[0].window.rows is 0; it must be 1 to 4096"},
      {queries([](v1::Window& w) { w.set_rows(4097); }), "sequences[0].window.rows is 4097; it must be 1 to 4096"},
      {queries([](v1::Window& w) { w.set_rows(21); }),
       "sequences[0].window.rows is 21; it must be at most written_tokens"},
      {queries([](v1::Window& w) { w.clear_dtype(); }), "sequences[0].window.dtype is 0"},
      {queries([](v1::Window& w) { w.set_dtype(static_cast<v1::DType>(9)); }), "sequences[0].window.dtype is 9"},
      {queries([](v1::Window& w) { w.clear_queries(); }), "sequences[0].window.queries is missing"},
      {queries([](v1::Window& w) { w.set_slot(1024); }), "sequences[0].window.slot is 1024; it must be 0 to 1023"},
      {queries([](v1::Window& w) { w.set_inline_queries(""); }), "sequences[0].window.inline_queries is 0 bytes long"},
      {queries([](v1::Window& w) { w.set_inline_queries(std::string((1 << 20) + 1, 'x')); }),
       "sequences[0].window.inline_queries is 1048577 bytes long"},
      {queries([](v1::Window& w) { w.add_positions(3); }), "sequences[0].window.positions is 1 items long"},
      {queries([](v1::Window& w) {
         for (const uint32_t position : {3, 5, 5, 6}) w.add_positions(position);
       }),
       "sequences[0].window.positions[2] is 5; it must be above"},
      {queries([](v1::Window& w) {
         for (const uint32_t position : {3, 5, 6, 20}) w.add_positions(position);
       }),
       "sequences[0].window.positions[3] is 20; it must be above the row's position before it and below "
       "written_tokens"},
      {queries([](v1::Window& w) {
         for (const uint32_t position : {0u, 1u, 2u, ~0u}) w.add_positions(position);
       }),
       "sequences[0].window.positions[3] is 4294967295"},
  };
  cases.insert(cases.end(), own.begin(), own.end());
  RefuseAll<R>(right, cases, call);
}

// What the shape alone does not show is refused by whoever knows, one sequence at a time.
TEST_F(FieldTest, OneBadSequenceNeverStopsTheOthers) {
  v1::ReserveRequest reserve;
  *reserve.mutable_lease() = worker_.lease();
  for (const uint64_t sequence : {99u, 1u}) {
    v1::ReserveSequence* item = reserve.add_sequences();
    item->set_sequence(sequence);
    item->set_total_tokens(20);
  }
  v1::ReserveResponse response;
  const grpc::Status status = worker_.stub().Reserve(Context().get(), reserve, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.sequences_size(), 2);
  EXPECT_EQ(response.sequences(0).outcome().code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(response.sequences(1).outcome().code(), grpc::StatusCode::OK);
  EXPECT_GE(response.sequences(1).reserved_tokens(), 20u);

  v1::EvictRequest evict;
  *evict.mutable_lease() = worker_.lease();
  for (const uint64_t sequence : {1u, 99u}) {
    v1::EvictSequence* item = evict.add_sequences();
    item->set_sequence(sequence);
    item->set_written_tokens(20);
    item->set_budget_tokens(40);
    // More rows than the lease's window slots hold.
    item->mutable_window()->set_rows(5);
    item->mutable_window()->set_dtype(v1::D_TYPE_F32);
    item->mutable_window()->set_slot(0);
  }
  v1::EvictResponse evicted;
  ASSERT_TRUE(worker_.stub().Evict(Context().get(), evict, &evicted).ok());
  ASSERT_EQ(evicted.sequences_size(), 2);
  EXPECT_EQ(evicted.sequences(0).outcome().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(evicted.sequences(0).outcome().message(), HasSubstr("rows"));
  EXPECT_EQ(evicted.sequences(1).outcome().code(), grpc::StatusCode::NOT_FOUND);
  rig_.GetStatus();
}

// Texts that quote the request stay small enough for a trailer.
TEST_F(FieldTest, MessagesAreCut) {
  v1::EvictRequest evict;
  *evict.mutable_lease() = worker_.lease();
  evict.add_sequences()->set_sequence(1);
  std::string name;
  while (name.size() < 10'000) name += "\xc3\xa4";
  evict.mutable_sequences(0)->set_policy(name);
  v1::EvictResponse response;
  const grpc::Status status = worker_.stub().Evict(Context().get(), evict, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sequences[0].policy is refused"));
  EXPECT_LT(status.error_message().size(), 2'000u);
}

}  // namespace
}  // namespace kvsteward::rpc
