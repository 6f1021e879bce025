#include "tests/client/fake_sidecar.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "tests/client/objects.h"

namespace kvsteward::testing {
namespace {

// Chunk 0: one table of two units, row capacity 4; unit u holds block u.
ReceivedObject MakeTables() {
  ReceivedObject object = MakeObject(KVS_TABLES, 0, 4096);
  alignas(64) std::byte bytes[1024] = {};
  auto* table = reinterpret_cast<kvs_sequence_table*>(bytes);
  table->magic = KVS_SHM_MAGIC;
  table->units = 2;
  table->row_capacity = 4;
  table->row_stride = kvs_row_stride(4);
  table->rows_offset = kvs_rows_offset(2);
  for (uint32_t unit = 0; unit < 2; ++unit) {
    auto* row = const_cast<kvs_row*>(kvs_row_slot(table, unit, 0));
    row->blocks = 1;
    row->block[0] = unit;
  }
  EXPECT_EQ(pwrite(object.fd.get(), bytes, sizeof(bytes), FakeSidecar::kTableOffset),
            static_cast<ssize_t>(sizeof(bytes)));
  return object;
}

}  // namespace

FakeSidecar::FakeSidecar() {
  std::string pattern = ::testing::TempDir() + "kvs-fake-XXXXXX";
  EXPECT_NE(mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;

  attach.mutable_lease()->set_key(std::string(16, 'k'));
  attach.mutable_lease()->set_epoch(1);
  attach.set_lease_name("lease-1");
  attach.set_backend("host");
  attach.set_export_method("memfd");
  attach.set_block_bytes(kBlockBytes);
  attach.set_blocks_per_extent(2);
  attach.set_extent_bytes(2 * kBlockBytes);
  attach.set_window_slot_bytes(4 * 8 * 64 * 4);
  attach.set_statistics_bytes(4096 + 2 * attach.window_slot_bytes());
  attach.set_plan_bytes(4096);
  objects.push_back(MakeObject(KVS_STATISTICS, 0, attach.statistics_bytes()));
  objects.push_back(MakeObject(KVS_PLANS, 0, 4096));
  objects.push_back(MakeTables());
  objects.push_back(MakeObject(KVS_EXTENT, 0, 2 * kBlockBytes));
  create.set_table_offset(kTableOffset);
  create.set_table_chunks(1);
  create.set_extents(1);
  create.set_version(1);

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = directory_ + "/fd.sock";
  std::memcpy(address.sun_path, path.data(), path.size());
  listener_ = UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(listener_.get(), 8), 0);
  accepting_ = std::thread([this] { Accept(); });
  server_ = grpc::ServerBuilder()
                .AddListeningPort("unix:" + directory_ + "/grpc.sock", grpc::InsecureServerCredentials())
                .RegisterService(this)
                .BuildAndStart();
}

FakeSidecar::~FakeSidecar() {
  Die();
  std::filesystem::remove_all(directory_);
}

void FakeSidecar::Die() {
  if (server_ == nullptr) return;
  {
    MutexLock lock(mutex_);
    dying_ = true;
    connection_.reset();
    changed_.NotifyAll();
  }
  shutdown(listener_.get(), SHUT_RDWR);
  accepting_.join();
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

ClientOptions FakeSidecar::Options() const {
  ClientOptions options;
  options.address = "unix:" + directory_ + "/grpc.sock";
  options.fd_socket = directory_ + "/fd.sock";
  options.geometry = kGeometry;
  options.window_rows = 8;
  options.window_slots = 2;
  options.plan_bytes = 4096;
  options.call_timeout = std::chrono::seconds(20);
  return options;
}

void FakeSidecar::Accept() {
  for (;;) {
    UniqueFd accepted(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    MutexLock lock(mutex_);
    if (!accepted || dying_) return;
    SendMessage(accepted.get(), MakeMessage(KVS_FD_TICKET));
    connection_ = std::move(accepted);
  }
}

void FakeSidecar::SendNow(const ReceivedObject& object) {
  MutexLock lock(mutex_);
  SendObject(connection_.get(), object);
}

void FakeSidecar::HangUp() {
  MutexLock lock(mutex_);
  connection_.reset();
}

void FakeSidecar::EndHold(grpc::Status with) {
  MutexLock lock(mutex_);
  end_hold_ = std::move(with);
  changed_.NotifyAll();
}

void FakeSidecar::SayDraining() {
  MutexLock lock(mutex_);
  say_draining_ = true;
  changed_.NotifyAll();
}

std::vector<std::byte> FakeSidecar::Contents(uint32_t kind) const {
  for (const ReceivedObject& object : objects) {
    if (object.kind != kind) continue;
    std::vector<std::byte> bytes(object.bytes);
    EXPECT_EQ(pread(object.fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  return {};
}

bool FakeSidecar::SawDetach() {
  MutexLock lock(mutex_);
  pollfd event{connection_.get(), POLLIN, 0};
  if (poll(&event, 1, 20'000) <= 0) return false;
  auto received = ReceiveWithFds(connection_.get(), sizeof(kvs_fd_message), 0);
  if (!received.ok() || received->bytes.size() != sizeof(kvs_fd_message)) return false;
  kvs_fd_message message;
  std::memcpy(&message, received->bytes.data(), sizeof(message));
  return message.type == KVS_FD_DETACH;
}

grpc::Status FakeSidecar::Attach(grpc::ServerContext*, const v1::AttachRequest*, v1::AttachResponse* response) {
  for (const ReceivedObject& object : objects) SendNow(object);
  *response = attach;
  return grpc::Status::OK;
}

grpc::Status FakeSidecar::Hold(grpc::ServerContext* context, const v1::HoldRequest*,
                               grpc::ServerWriter<v1::HoldResponse>* writer) {
  if (hold) return hold();
  v1::HoldResponse notice;
  notice.set_notice(v1::HoldResponse::NOTICE_LIVE);
  writer->Write(notice);
  MutexLock lock(mutex_);
  end_hold_.reset();
  while (!dying_ && !end_hold_ && !context->IsCancelled()) {
    if (std::exchange(say_draining_, false)) {
      notice.set_notice(v1::HoldResponse::NOTICE_DRAINING);
      writer->Write(notice);
    }
    changed_.WaitUntil(mutex_, std::chrono::steady_clock::now() + std::chrono::milliseconds(5));
  }
  return end_hold_.value_or(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the fake died"));
}

grpc::Status FakeSidecar::CreateSequence(grpc::ServerContext*, const v1::CreateSequenceRequest*,
                                         v1::CreateSequenceResponse* response) {
  *response = create;
  return grpc::Status::OK;
}

grpc::Status FakeSidecar::Reserve(grpc::ServerContext*, const v1::ReserveRequest* request,
                                  v1::ReserveResponse* response) {
  if (reserve) return reserve(*request, response);
  response->set_extents(1);
  for (const v1::ReserveSequence& item : request->sequences()) {
    v1::ReservedSequence* reply = response->add_sequences();
    reply->set_sequence(item.sequence());
    reply->set_reserved_tokens(item.total_tokens());
    reply->set_version(1);
  }
  return grpc::Status::OK;
}

grpc::Status FakeSidecar::Evict(grpc::ServerContext*, const v1::EvictRequest* request, v1::EvictResponse* response) {
  return evict(*request, response);
}

grpc::Status FakeSidecar::ReleaseSequence(grpc::ServerContext*, const v1::ReleaseSequenceRequest*,
                                          v1::ReleaseSequenceResponse*) {
  ++releases_;
  return grpc::Status::OK;
}

}  // namespace kvsteward::testing
