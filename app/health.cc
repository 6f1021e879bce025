#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <chrono>
#include <cstdio>
#include <future>

#include "app/commands.h"

namespace kvsteward::app {
namespace {

// grpc.health.v1's messages have one field each and are, on the wire, the same as these wrappers.
using CheckRequest = google::protobuf::StringValue;   // service
using CheckResponse = google::protobuf::UInt32Value;  // status
constexpr uint32_t kServing = 1;

}  // namespace

int Health(const std::string& address) {
  grpc::TemplatedGenericStub<CheckRequest, CheckResponse> stub(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  CheckRequest request;
  request.set_value("kvsteward.v1.Steward");
  CheckResponse response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  if (!status.ok()) {
    std::fprintf(stderr, "kvsteward: %s does not answer: %s\n", address.c_str(), status.error_message().c_str());
    return 1;
  }
  std::puts(response.value() == kServing ? "SERVING" : "NOT_SERVING");
  return response.value() == kServing ? 0 : 1;
}

}  // namespace kvsteward::app
