// The mapped memory of one lease: extents in one address range, tables, statistics and plans. Objects are mapped as
// they arrive, in any order; nothing is unmapped before the end. Every object is verified first, so that a wrong size
// or a shrinking file cannot fault the worker. Thread-safe: Map and Await under a lock, the addresses are fixed once
// known.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "client/cpp/connection.h"
#include "client/cpp/extents.h"

namespace kvsteward {

// What the reply to Attach says of the lease's objects. Bytes.
struct LeaseLayout {
  uint64_t block_bytes = 0;
  uint64_t blocks_per_extent = 0;
  uint64_t extent_bytes = 0;
  uint64_t statistics_bytes = 0;
  uint64_t plan_bytes = 0;       // 0: there is no plan region
  std::string device_uuid = {};  // the CUDA device on which extents lie; empty: the host
};

class LeaseMemory {
 public:
  // Address space set aside for extents, without memory behind it: the most a lease can grow to.
#ifdef __SANITIZE_THREAD__  // which leaves little address space
  static constexpr uint64_t kAddressSpaceBytes = uint64_t{1} << 36;
#else
  static constexpr uint64_t kAddressSpaceBytes = uint64_t{1} << 40;
#endif

  // INTERNAL if the layout contradicts itself; RESOURCE_EXHAUSTED if the process's address space is limited (ulimit
  // -v); FAILED_PRECONDITION or NOT_FOUND if this process cannot use the layout's device.
  static absl::StatusOr<std::unique_ptr<LeaseMemory>> Reserve(const LeaseLayout& layout);

  // INTERNAL, naming the object, for anything that is not what the layout and kvsteward/shm.h say.
  absl::Status Map(ReceivedObject object);
  // Wakes everyone in Await: no more objects will come, `status` says why.
  void Close(absl::Status status);

  // Until this many extents and table chunks, the statistics and the plans are mapped. DEADLINE_EXCEEDED, or what Close
  // said.
  absl::Status Await(uint32_t extents, uint32_t table_chunks, Deadline deadline);

  // An address of the layout's device. nullptr beyond the mapped extents.
  std::byte* Block(uint32_t block) const {
    return block < blocks_.load(std::memory_order_acquire) ? space_->data() + block * layout_.block_bytes : nullptr;
  }
  // Copies from the host into blocks; done on return. REQUIRES: they are mapped.
  absl::Status Write(const Piece& piece) const { return space_->Write(piece); }
  // REQUIRES of all three: Await has said so.
  std::span<const std::byte> TableChunk(uint32_t index) const;
  std::span<std::byte> statistics() const;
  std::span<const std::byte> plans() const;

  const LeaseLayout& layout() const { return layout_; }

 private:
  LeaseMemory(const LeaseLayout& layout, std::unique_ptr<Extents> space) : layout_(layout), space_(std::move(space)) {}
  absl::Status MapExtent(const ReceivedObject& object) KVS_REQUIRES(mutex_);
  absl::Status MapRegion(const ReceivedObject& object) KVS_REQUIRES(mutex_);
  bool Have(uint32_t extents, uint32_t table_chunks) const KVS_REQUIRES(mutex_);

  const LeaseLayout layout_;
  const std::unique_ptr<Extents> space_;  // of kAddressSpaceBytes or a little less
  std::atomic<uint64_t> blocks_{0};       // of the extents from 0 on without a gap

  mutable Mutex mutex_;
  CondVar changed_;
  absl::Status closed_ KVS_GUARDED_BY(mutex_);
  std::set<uint32_t> extents_ KVS_GUARDED_BY(mutex_);
  std::map<uint32_t, Mapping> tables_ KVS_GUARDED_BY(mutex_);
  uint32_t chunks_ KVS_GUARDED_BY(mutex_) = 0;  // tables from 0 on without a gap
  Mapping statistics_ KVS_GUARDED_BY(mutex_);
  Mapping plans_ KVS_GUARDED_BY(mutex_);
};

}  // namespace kvsteward
