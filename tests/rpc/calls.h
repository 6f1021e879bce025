// Calls of one sequence each, as a raw worker makes them.
#pragma once

#include <cstdint>
#include <string>

#include "grpcpp/support/status.h"
#include "tests/rpc/raw_worker.h"

namespace kvsteward::rpc {

// What a call says: its own status, or its sequence's.
struct Said {
  uint32_t code;
  std::string message;
};

Said ToSaid(const grpc::Status& status);

// Results and responses are filled in unless null.
Said Create(RawWorker& worker, uint64_t sequence, uint32_t max_tokens, v1::CreateSequenceResponse* response = nullptr);
v1::ReserveSequence Room(uint64_t sequence, uint32_t total_tokens, uint64_t request_id = 0);
Said Reserve(RawWorker& worker, const v1::ReserveSequence& item, v1::ReservedSequence* result = nullptr);
Said Truncate(RawWorker& worker, uint64_t sequence, uint32_t tokens, uint64_t request_id = 0,
              v1::TruncateResponse* response = nullptr);
Said Observe(RawWorker& worker, const v1::ObserveSequence& item, v1::ObservedSequence* result = nullptr);
Said Evict(RawWorker& worker, const v1::EvictSequence& item, v1::EvictedSequence* result = nullptr);
Said Release(RawWorker& worker, uint64_t sequence, uint64_t request_id = 0,
             v1::ReleaseSequenceResponse* response = nullptr);

}  // namespace kvsteward::rpc
