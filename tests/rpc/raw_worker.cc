#include "tests/rpc/raw_worker.h"

#include <sys/mman.h>

#include "gtest/gtest.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {

v1::AttachRequest RawWorker::SmallGeometry() {
  v1::AttachRequest request;
  v1::Geometry* geometry = request.mutable_geometry();
  geometry->set_layers(2);
  geometry->set_query_heads(4);
  geometry->set_kv_heads(2);
  geometry->set_head_dim(8);
  geometry->set_dtype(v1::D_TYPE_F32);
  request.set_window_rows(4);
  request.set_window_slots(1);
  request.set_plan_bytes(8192);
  request.set_input_bytes(4096);
  return request;
}

RawWorker::RawWorker(const std::string& fd_path, std::unique_ptr<v1::Steward::Stub> stub)
    : socket_(ConnectFdSocket(fd_path)), stub_(std::move(stub)) {
  const std::optional<kvs_fd_message> message = ReceiveFdMessage(socket_.get());
  EXPECT_TRUE(message && message->type == KVS_FD_TICKET);
  if (message) ticket_.assign(reinterpret_cast<const char*>(message->ticket), sizeof(message->ticket));
}

grpc::Status RawWorker::Attach(v1::AttachRequest request) {
  request.set_ticket(ticket_);
  return stub_->Attach(Context().get(), request, &attached_);
}

Mapping& RawWorker::Object(uint32_t kind, uint32_t index) {
  const auto wanted = std::make_pair(kind, index);
  while (!objects_.contains(wanted)) {
    UniqueFd fd;
    const std::optional<kvs_fd_message> message = ReceiveFdMessage(socket_.get(), &fd);
    if (!message || message->type != KVS_FD_OBJECT || !fd) {
      ADD_FAILURE() << "object " << index << " of kind " << kind << " did not come";
      return objects_[wanted];
    }
    const bool writable = message->kind == KVS_EXTENT || message->kind == KVS_STATISTICS;
    void* data = mmap(nullptr, message->bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd.get(), 0);
    EXPECT_NE(data, MAP_FAILED);
    objects_[{message->kind, message->index}] = Mapping(data, message->bytes);
  }
  return objects_[wanted];
}

grpc::Status RawWorker::Hold(bool honest) {
  std::byte* pattern = Object(KVS_STATISTICS, 0).data() + KVS_SELF_TEST_OFFSET;
  for (size_t i = 0; i < ticket_.size(); ++i) pattern[i] = static_cast<std::byte>(ticket_[i] ^ (honest ? 0x5a : 0x5b));
  v1::HoldRequest request;
  *request.mutable_lease() = lease();
  hold_context_ = Context();
  hold_ = stub_->Hold(hold_context_.get(), request);
  v1::HoldResponse response;
  if (!hold_->Read(&response)) return hold_->Finish();
  EXPECT_EQ(response.notice(), v1::HoldResponse::NOTICE_LIVE);
  return grpc::Status::OK;
}

void RawWorker::Start() {
  const grpc::Status attached = Attach(SmallGeometry());
  ASSERT_TRUE(attached.ok()) << attached.error_message();
  const grpc::Status held = Hold();
  ASSERT_TRUE(held.ok()) << held.error_message();
}

std::optional<v1::HoldResponse::Notice> RawWorker::NextNotice() {
  v1::HoldResponse response;
  if (!hold_->Read(&response)) return std::nullopt;
  return response.notice();
}

grpc::Status RawWorker::FinishHold() { return hold_->Finish(); }

void RawWorker::Detach() {
  objects_.clear();
  const kvs_fd_message message = FdMessage(KVS_FD_DETACH);
  EXPECT_TRUE(SendRaw(socket_.get(), &message, sizeof(message)));
}

}  // namespace kvsteward::rpc
