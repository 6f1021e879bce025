// One side of the test of shared device memory: a process that does what it is told over a socket, an order at a time.
// The test itself never calls CUDA, so that it may fork.
#pragma once

#include <cstdint>

namespace kvsteward::gpu_test {

// `value` of an order, and of its answer:
enum class Order : int32_t {
  kOpen,    // the device and its context                                  ->
  kFree,    //                                                             -> bytes free on the device
  kCreate,  // bytes: makes an object and sends its descriptor to the peer -> microseconds
  kImport,  // bytes: receives a descriptor and maps it                    -> microseconds
  kRefuse,  // bytes: imports a descriptor of no device memory             ->
  kWrite,   // seed: fills the memory with the seed's pattern, 0: zeroes   -> microseconds
  kRead,    // seed: compares                                              -> words that differ
  kHammer,  // writes patterns in kernels one after another, until killed  ->
  kDrop,    // the object ends, the mapping goes                           -> microseconds
};

struct Command {
  Order order;
  uint64_t value;
};

struct Answer {
  int32_t code;  // absl::StatusCode
  uint64_t value;
  char text[240];  // the status in words
};

// Serves until the control socket closes. `peer` is the socket to the other side.
int RunSide(int control, int peer);

}  // namespace kvsteward::gpu_test
