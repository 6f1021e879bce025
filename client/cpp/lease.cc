#include "client/cpp/lease.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "kvsteward/shm.h"

namespace kvsteward {
namespace {

constexpr uint8_t kSelfTestPattern = 0x5a;
constexpr char kHostExport[] = "memfd";
constexpr char kCudaExport[] = "cuda-posix-fd";
// The sockets of a process that dies are closed one by one.
constexpr std::chrono::milliseconds kDeathIsNear{100};

uint64_t ElementBytes(ElementType type) { return type == ElementType::kF32 ? 4 : 2; }

Deadline After(const ClientOptions& options) { return std::chrono::steady_clock::now() + options.call_timeout; }

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  // A lease's channel shares nothing with an earlier one that may be waiting to reconnect.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A sidecar that starts has its fd socket up a moment before it serves.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

Lease::Lease(const ClientOptions& options, FdConnection connection)
    : options_(options), connection_(std::move(connection)), stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

absl::StatusOr<std::shared_ptr<Lease>> Lease::Attach(const ClientOptions& options) {
  absl::StatusOr<FdConnection> connection = FdConnection::Connect(options.fd_socket, After(options));
  if (!connection.ok()) return connection.status();
  std::shared_ptr<Lease> lease(new Lease(options, *std::move(connection)));
  if (absl::Status status = lease->Start(); !status.ok()) return status;
  return lease;
}

absl::Status Lease::Start() {
  if (!stop_) return absl::ResourceExhaustedError(absl::StrCat("opening an eventfd: ", std::strerror(errno)));
  const std::array<uint8_t, 16>& ticket = connection_->ticket();
  v1::AttachRequest request;
  request.set_ticket(ticket.data(), ticket.size());
  v1::Geometry& geometry = *request.mutable_geometry();
  geometry.set_layers(options_.geometry.layers);
  geometry.set_query_heads(options_.geometry.query_heads);
  geometry.set_kv_heads(options_.geometry.kv_heads);
  geometry.set_head_dim(options_.geometry.head_dim);
  geometry.set_dtype(static_cast<v1::DType>(options_.geometry.dtype));
  request.set_window_rows(options_.window_rows);
  request.set_window_slots(options_.window_slots);
  request.set_plan_bytes(options_.plan_bytes);
  request.set_input_bytes(options_.input_bytes);
  stub_ = v1::Steward::NewStub(NewChannel(options_.address));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.call_timeout);
  context.set_wait_for_ready(true);
  const grpc::Status reply = stub_->Attach(&context, request, &attached_);
  if (reply.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::UnavailableError(absl::StrCat("no sidecar answers on address ", options_.address, ": start it first"));
  }
  if (!reply.ok()) return ToStatus(reply);
  if (absl::Status status = CheckAttached(); !status.ok()) return status;
  key_ = attached_.lease();

  absl::StatusOr<std::unique_ptr<LeaseMemory>> memory =
      LeaseMemory::Reserve({.block_bytes = attached_.block_bytes(),
                            .blocks_per_extent = attached_.blocks_per_extent(),
                            .extent_bytes = attached_.extent_bytes(),
                            .statistics_bytes = attached_.statistics_bytes(),
                            .plan_bytes = attached_.plan_bytes(),
                            .device_uuid = attached_.device_uuid()});
  if (!memory.ok()) return memory.status();
  memory_ = *std::move(memory);
  receiver_ = std::thread([this] { ReceiveObjects(); });
  const bool on_device = !attached_.device_uuid().empty();
  if (absl::Status status = AwaitMemory(on_device ? 1 : 0, 0); !status.ok()) return status;
  statistics_ = memory_->statistics();
  plans_ = memory_->plans();

  const std::span<std::byte> pattern = statistics_.subspan(KVS_SELF_TEST_OFFSET, ticket.size());
  std::ranges::transform(ticket, pattern.begin(),
                         [](uint8_t byte) { return static_cast<std::byte>(byte ^ kSelfTestPattern); });
  if (on_device) {
    if (absl::Status status = memory_->Write({memory_->Block(0), pattern}); !status.ok()) return status;
  }
  hold_ = std::make_unique<HoldStream>(*stub_, key_, options_.on_draining,
                                       [this](const absl::Status& status) { End(status); });
  return hold_->AwaitLive(After(options_));
}

absl::Status Lease::CheckAttached() const {
  const std::string& method = attached_.export_method();
  if (method != (attached_.device_uuid().empty() ? kHostExport : kCudaExport)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the sidecar shares memory by ", method, attached_.device_uuid().empty() ? "" : " on device ",
                     attached_.device_uuid(), ", this client by ", kHostExport, " or, on a device, ", kCudaExport,
                     ": use versions of both that fit"));
  }
  const ModelGeometry& geometry = options_.geometry;
  const uint64_t block_bytes = 2 * uint64_t{KVS_BLOCK_TOKENS} * geometry.head_dim * ElementBytes(geometry.dtype);
  // Sizes are at most 2^10 each, so the product stays below 2^44.
  const uint64_t slot_bytes =
      uint64_t{geometry.layers} * geometry.query_heads * options_.window_rows * geometry.head_dim * sizeof(float);
  const uint64_t slots = options_.window_slots;
  const uint64_t regions = attached_.statistics_bytes();
  if (attached_.block_bytes() != block_bytes) {
    return absl::InternalError(absl::StrCat("the sidecar's blocks have ", attached_.block_bytes(),
                                            " bytes where this geometry needs ", block_bytes));
  }
  if (regions < KVS_WINDOWS_OFFSET ||
      (slots != 0 &&
       (attached_.window_slot_bytes() < slot_bytes || attached_.window_slot_bytes() % KVS_ALIGNMENT != 0 ||
        attached_.window_slot_bytes() > (regions - KVS_WINDOWS_OFFSET) / slots))) {
    return absl::InternalError(absl::StrCat("the sidecar's statistics region of ", regions, " bytes does not hold ",
                                            slots, " window slots of ", slot_bytes, " bytes"));
  }
  const uint64_t inputs = attached_.inputs_offset();
  if (options_.input_bytes != 0 &&
      (inputs < KVS_WINDOWS_OFFSET + slots * attached_.window_slot_bytes() || inputs % KVS_ALIGNMENT != 0 ||
       inputs > regions || options_.input_bytes > regions - inputs)) {
    return absl::InternalError(absl::StrCat("the sidecar's statistics region of ", regions, " bytes does not hold ",
                                            options_.input_bytes, " bytes of inputs"));
  }
  return absl::OkStatus();
}

Lease::~Lease() {
  hold_.reset();
  if (receiver_.joinable()) {
    eventfd_write(stop_.get(), 1);
    receiver_.join();
  }
  memory_.reset();
  connection_->Detach();
}

void Lease::ReceiveObjects() {
  for (;;) {
    pollfd events[] = {{connection_->fd(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(events, 2, -1) < 0 && errno != EINTR) {
      return End(absl::InternalError(absl::StrCat("poll: ", std::strerror(errno))));
    }
    if (events[1].revents != 0) return;
    absl::StatusOr<ReceivedObject> object = connection_->Receive();
    if (absl::IsResourceExhausted(object.status())) continue;
    absl::Status status = object.ok() ? memory_->Map(*std::move(object)) : object.status();
    if (!status.ok()) return End(status);
  }
}

absl::Status Lease::AwaitMemory(uint32_t extents, uint32_t table_chunks) {
  absl::Status status = memory_->Await(extents, table_chunks, After(options_));
  if (!status.ok()) End(status);
  return status;
}

void Lease::End(const absl::Status& why) {
  {
    MutexLock lock(mutex_);
    end_.Update(why);
  }
  memory_->Close(why);
}

void Lease::AwaitHangUp(std::chrono::milliseconds patience) {
  pollfd event{connection_->fd(), POLLRDHUP, 0};
  if (poll(&event, 1, static_cast<int>(patience.count())) > 0) {
    End(absl::UnavailableError("the sidecar closed the fd socket"));
  }
}

absl::Status Lease::Alive() const {
  MutexLock lock(mutex_);
  if (end_.ok()) return absl::OkStatus();
  const std::string name(attached_.lease_name());
  if (replaced_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the sequence belonged to lease ", name,
                     ", which has ended: its tokens are gone with the sidecar's books, create it again"));
  }
  return absl::UnavailableError(
      absl::StrCat("lease ", name, " has ended (", std::string(end_.message()), "): call Reattach() for a new one"));
}

absl::Status Lease::Explain(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) AwaitHangUp(kDeathIsNear);
  absl::Status alive = Alive();
  return alive.ok() ? ToStatus(status) : alive;
}

}  // namespace kvsteward
