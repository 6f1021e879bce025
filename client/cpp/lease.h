// One lease from its attachment to its end: the fd socket's connection and the thread that receives memory from it, the
// gRPC channel, the Hold stream and the mapped memory. Sequences share its ownership; the last one to go ends it in
// order: unmap, detach, close. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "client/cpp/connection.h"
#include "client/cpp/hold_stream.h"
#include "client/cpp/lease_memory.h"
#include "client/cpp/status.h"
#include "kvsteward/client.h"
#include "kvsteward/v1/steward.grpc.pb.h"

namespace kvsteward {

class Lease {
 public:
  static absl::StatusOr<std::shared_ptr<Lease>> Attach(const ClientOptions& options);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  // Makes one call in the lease's name. A call that fails because the lease has ended says so in one sentence.
  template <class Request, class Response>
  absl::Status Call(grpc::Status (v1::Steward::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    Request request, Response* response) {
    if (absl::Status status = Alive(); !status.ok()) return status;
    *request.mutable_lease() = key_;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + options_.call_timeout);
    return Explain((stub_.get()->*method)(&context, request, response));
  }
  // Until everything that a reply speaks of is mapped.
  absl::Status AwaitMemory(uint32_t extents, uint32_t table_chunks);

  // UNAVAILABLE once the lease has ended; FAILED_PRECONDITION once another has taken its place.
  absl::Status Alive() const;
  // Waits this long for the sidecar to hang up, which ends the lease. A call may notice the sidecar's death before the
  // receiver does.
  void AwaitHangUp(std::chrono::milliseconds patience);
  void Replace() { replaced_ = true; }

  LeaseMemory& memory() const { return *memory_; }
  std::span<std::byte> statistics() const { return statistics_; }
  std::span<const std::byte> plans() const { return plans_; }
  const ClientOptions& options() const { return options_; }
  const v1::AttachResponse& attached() const { return attached_; }
  // A fresh number for a request that can be recognised when it is repeated.
  uint64_t NextRequestId() { return ++last_request_id_; }

 private:
  Lease(const ClientOptions& options, FdConnection connection);
  absl::Status Start();
  absl::Status CheckAttached() const;
  void ReceiveObjects();
  void End(const absl::Status& why);
  absl::Status Explain(const grpc::Status& status);

  const ClientOptions options_;
  std::optional<FdConnection> connection_;  // until the end
  UniqueFd stop_;                           // an eventfd that ends the receiver
  std::unique_ptr<v1::Steward::Stub> stub_;
  v1::AttachResponse attached_;
  v1::Lease key_;
  std::unique_ptr<LeaseMemory> memory_;
  std::span<std::byte> statistics_;
  std::span<const std::byte> plans_;
  std::atomic<uint64_t> last_request_id_{0};
  std::atomic<bool> replaced_{false};

  mutable Mutex mutex_;
  absl::Status end_ KVS_GUARDED_BY(mutex_);  // not OK: why the lease has ended

  std::thread receiver_;
  std::unique_ptr<HoldStream> hold_;
};

}  // namespace kvsteward
