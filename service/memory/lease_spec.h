// What memory and device must know of a lease: the geometry of its blocks, its window slots and inputs area. Made by
// rpc/ from Attach, immutable once made; core hands it through without looking into it.
#pragma once

#include <cstdint>

#include "kvsteward/engine/tensor.h"
#include "kvsteward/shm.h"
#include "service/core/types.h"

namespace kvsteward::core {

struct LeaseSpec {
  engine::Geometry geometry;
  uint32_t window_rows = 0;        // most query rows a window slot holds
  uint32_t window_slots = 0;       // slot s lies at KVS_WINDOWS_OFFSET + s * window_slot_bytes of the statistics region
  uint64_t window_slot_bytes = 0;  // stride of slots
  uint64_t input_bytes = 0;        // of the inputs area behind them
  Secret ticket{};                 // what the self-test must show, each byte xor 0x5a

  // Where the inputs area begins in the statistics region. REQUIRES: rpc/'s bounds, which keep this below 2^63.
  uint64_t inputs_offset() const { return kvs_align(KVS_WINDOWS_OFFSET + window_slots * window_slot_bytes); }
};

}  // namespace kvsteward::core
