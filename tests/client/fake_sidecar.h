// A sidecar of one lease at a time that does what a test tells it, for replies that no honest sidecar gives. By default
// it answers as an honest one would: sequence 1 has its table at the beginning of chunk 0, every unit has one block.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "client/cpp/connection.h"
#include "grpcpp/server.h"
#include "kvsteward/client.h"
#include "kvsteward/v1/steward.grpc.pb.h"

namespace kvsteward::testing {

class FakeSidecar final : public v1::Steward::Service {
 public:
  static constexpr ModelGeometry kGeometry{
      .layers = 1, .query_heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = ElementType::kF16};
  static constexpr uint64_t kBlockBytes = 4096;
  static constexpr uint64_t kTableOffset = 64;

  FakeSidecar();
  ~FakeSidecar() override;
  // Lets go of everything at once, as a process that is killed.
  void Die();

  ClientOptions Options() const;

  // What it says. Set before the call in question.
  v1::AttachResponse attach;
  std::vector<ReceivedObject> objects;  // sent before the reply to Attach
  std::function<grpc::Status()> hold;   // not set: the lease lives
  v1::CreateSequenceResponse create;
  std::function<grpc::Status(const v1::ReserveRequest&, v1::ReserveResponse*)> reserve;
  std::function<grpc::Status(const v1::EvictRequest&, v1::EvictResponse*)> evict;

  void SendNow(const ReceivedObject& object);
  void HangUp();                    // of the fd socket
  void EndHold(grpc::Status with);  // of the open Hold stream
  void SayDraining();
  // The file of an object in `objects`, as the worker sees it.
  std::vector<std::byte> Contents(uint32_t kind) const;
  // Whether the worker has sent KVS_FD_DETACH; waits for it or for the end of the connection.
  bool SawDetach();
  int releases() const { return releases_; }

  grpc::Status Attach(grpc::ServerContext*, const v1::AttachRequest*, v1::AttachResponse* response) override;
  grpc::Status Hold(grpc::ServerContext* context, const v1::HoldRequest*,
                    grpc::ServerWriter<v1::HoldResponse>* writer) override;
  grpc::Status CreateSequence(grpc::ServerContext*, const v1::CreateSequenceRequest*,
                              v1::CreateSequenceResponse* response) override;
  grpc::Status Reserve(grpc::ServerContext*, const v1::ReserveRequest* request, v1::ReserveResponse* response) override;
  grpc::Status Evict(grpc::ServerContext*, const v1::EvictRequest* request, v1::EvictResponse* response) override;
  grpc::Status ReleaseSequence(grpc::ServerContext*, const v1::ReleaseSequenceRequest*,
                               v1::ReleaseSequenceResponse*) override;

 private:
  void Accept();

  std::string directory_;
  UniqueFd listener_;
  std::thread accepting_;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<int> releases_{0};

  Mutex mutex_;
  CondVar changed_;
  UniqueFd connection_ KVS_GUARDED_BY(mutex_);  // the newest
  bool dying_ KVS_GUARDED_BY(mutex_) = false;
  bool say_draining_ KVS_GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_hold_ KVS_GUARDED_BY(mutex_);
};

}  // namespace kvsteward::testing
