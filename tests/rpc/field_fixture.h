// A live lease with sequence 1, of 64 tokens at most, and requests that are broken one field at a time: each must be
// refused with the exact code and a sentence that names the field; the daemon lives and its books are what they were.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {

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
      EXPECT_THAT(status.error_message(), ::testing::HasSubstr(broken.says));
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
      EXPECT_THAT(status.error_message(), ::testing::HasSubstr(says));
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

}  // namespace kvsteward::rpc
