#include "service/device/ready_word.h"

#include <string>

#include "kvsteward/shm.h"

namespace kvsteward::device {

ReadyWord::ReadyWord(core::WordValue wanted, std::span<const std::byte> statistics, Time deadline)
    : wanted_(wanted),
      word_(reinterpret_cast<const uint32_t*>(statistics.subspan(KVS_READY_OFFSET).data()) + wanted.slot),
      deadline_(deadline) {}

bool ReadyWord::Reached() const {
  return kvs_word_reached(__atomic_load_n(word_, __ATOMIC_ACQUIRE), wanted_.value) != 0;
}

absl::Status ReadyWord::Late() const {
  return absl::DeadlineExceededError(
      "ready.value is " + std::to_string(wanted_.value) + " but ready word " + std::to_string(wanted_.slot) + " is " +
      std::to_string(__atomic_load_n(word_, __ATOMIC_RELAXED)) +
      " at the deadline, and nothing was changed; store the value behind what the item reads, or call later");
}

}  // namespace kvsteward::device
