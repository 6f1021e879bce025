// A worker written by hand against shm.h and the proto files, without the client library: what an engine in another
// language would do.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/fd_passing.h"
#include "base/unique_fd.h"
#include "kvsteward/shm.h"
#include "kvsteward/v1/steward.grpc.pb.h"
#include "tests/rpc/raw_socket.h"

namespace kvsteward::rpc {

class RawWorker {
 public:
  // 2 layers, 4 query heads, 2 kv heads of 8 elements, f32: 4 units, blocks of 1 KiB.
  static v1::AttachRequest SmallGeometry();

  RawWorker(const std::string& fd_path, std::unique_ptr<v1::Steward::Stub> stub);

  // The ticket is filled in. Objects that came with the reply are received.
  grpc::Status Attach(v1::AttachRequest request);
  // Writes the self-test and waits for the first notice.
  grpc::Status Hold(bool honest = true);
  // All of the above with SmallGeometry.
  void Start();
  // The next notice; nothing once the stream has ended.
  std::optional<v1::HoldResponse::Notice> NextNotice();
  grpc::Status FinishHold();

  void Detach();
  void HangUp() { socket_.reset(); }

  v1::Steward::Stub& stub() { return *stub_; }
  const v1::Lease& lease() const { return attached_.lease(); }
  const v1::AttachResponse& attached() const { return attached_; }
  int socket() const { return socket_.get(); }
  const std::string& ticket() const { return ticket_; }
  // Receives objects until there are `count` of this kind, and maps them.
  Mapping& Object(uint32_t kind, uint32_t index);

 private:
  UniqueFd socket_;
  std::string ticket_;
  std::unique_ptr<v1::Steward::Stub> stub_;
  v1::AttachResponse attached_;
  std::map<std::pair<uint32_t, uint32_t>, Mapping> objects_;  // by kind and index
  std::unique_ptr<grpc::ClientContext> hold_context_;
  std::unique_ptr<grpc::ClientReader<v1::HoldResponse>> hold_;
};

}  // namespace kvsteward::rpc
