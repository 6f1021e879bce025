// Every field of every message but Evict's and Observe's, missing, zero, too large, of the wrong length or
// contradicting another.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/rpc/field_fixture.h"

namespace kvsteward::rpc {
namespace {

constexpr uint32_t kBillion = 1u << 30;

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
                {[](R& r) { r.set_plan_bytes(~uint64_t{0}); }, "plan_bytes is 18446744073709551615; it must be 0 to"},
                {[](R& r) { r.set_input_bytes((1ull << 40) + 1); },
                 "input_bytes is 1099511627777; it must be 0 to 1099511627776"},
                {[](R& r) { r.set_input_bytes(~uint64_t{0}); }, "input_bytes is 18446744073709551615"}},
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

}  // namespace
}  // namespace kvsteward::rpc
